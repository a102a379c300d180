#!/bin/sh
# Sets flarecli up on this machine. Safe to run again: what is there already is kept.
#
#   ./setup.sh         create .venv, install, reconstruct the example photos into ./scene
#   ./setup.sh test    also install what the tests need, and run them (further words go to pytest)
#
# VENV=DIR puts the environment elsewhere, PYTHON=python3.12 picks the interpreter,
# ALLOW_CUDA_TORCH=1 installs the CUDA build of torch on a machine without NVIDIA GPU.
set -eu
cd "$(dirname "$0")"
VENV=${VENV:-.venv}
OPEN3D_LIBRARIES="libusb-1.0-0 libgl1 libegl1 libx11-6 libidn2-0 libudev1 libgomp1"

fail() {
    printf 'error: %s\n' "$1" >&2
    if [ -n "${2:-}" ]; then printf 'hint: %s\n' "$2" >&2; fi
    exit 1
}

# install_packages WHY NAME...: by apt-get as root or with a sudo that does not ask; otherwise names them and fails.
install_packages() {
    why=$1
    shift
    as_root=""
    if ! command -v apt-get >/dev/null; then
        fail "$why" "install the packages that hold these Debian ones, then run this again: $*"
    fi
    if [ "$(id -u)" != 0 ]; then
        as_root="sudo -n"
        $as_root true 2>/dev/null || fail "$why" "sudo apt-get install -y $*"
    fi
    echo "installing system packages: $*"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer was found" "install one, or name it: PYTHON=/path/to/python3.12 ./setup.sh"
}

create_environment() {
    if [ -x "$VENV/bin/pip" ]; then return; fi
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_packages "$python can't make virtual environments (ensurepip is absent)" python3-venv
    fi
    "$python" -m venv "$VENV"
}

has_nvidia_gpu() {
    [ -e /dev/nvidia0 ] || [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1
}

# Without a GPU the CUDA build of torch would be several gigabytes for nothing. Ask pip what it would choose.
refuse_useless_cuda() {
    if has_nvidia_gpu || [ -n "${ALLOW_CUDA_TORCH:-}" ] || "$VENV/bin/python" -c 'import torch' 2>/dev/null; then return; fi
    plan=$("$VENV/bin/pip" install --quiet --dry-run --report - "torch>=2.5,<2.14")
    case $plan in
    *'"name": "nvidia-'*)
        fail "no NVIDIA GPU here, but pip would install the CUDA build of torch (several GB)" \
            "PIP_EXTRA_INDEX_URL=<the CPU index on PyTorch's \"Get started\" page> ./setup.sh, or ALLOW_CUDA_TORCH=1 ./setup.sh"
        ;;
    esac
}

load_open3d() {
    if "$VENV/bin/python" -c 'import open3d' 2>/dev/null; then return; fi
    # shellcheck disable=SC2086  # a list of packages
    install_packages "open3d does not load: system libraries are missing" $OPEN3D_LIBRARIES
    "$VENV/bin/python" -c 'import open3d' || fail "open3d still does not load" "see the line above"
}

create_environment
refuse_useless_cuda
case ${1:-} in
"")
    "$VENV/bin/pip" install -q -e .
    load_open3d
    if [ -e scene ]; then
        echo "scene is there already; the example is not reconstructed again"
    else
        "$VENV/bin/flare" reconstruct examples/photos -o scene
    fi
    echo "ready: . $VENV/bin/activate && flare --help"
    ;;
test)
    shift
    "$VENV/bin/pip" install -q -e ".[test]"
    load_open3d
    if ! command -v colmap >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        install_packages "the tests compare with COLMAP's own programs" colmap
    fi
    "$VENV/bin/python" -m pytest "$@"
    ;;
*)
    fail "unknown word: $1" "./setup.sh or ./setup.sh test"
    ;;
esac
