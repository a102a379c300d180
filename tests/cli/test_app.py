"""The root command: help, version, and how errors become lines, objects and exit codes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flarecli import __version__, errors, pipeline
from flarecli.cli.app import app, report, run, version_line
from flarecli.errors import FlareError, as_flare_error
from flarecli.job import SceneResult

FLARE = [sys.executable, "-m", "flarecli"]
COMMANDS = ["reconstruct", "batch", "export", "optimize", "render", "inspect", "eval", "weights", "doctor", "train"]
COMMANDS += ["formats"]


@pytest.fixture
def failing(monkeypatch):
    """A pipeline that raises what the test sets."""

    def set_error(error):
        def run_scene(job, *, on_progress=None, network=None):
            raise error

        monkeypatch.setattr(pipeline, "run_scene", run_scene)

    return set_error


class OutOfMemoryError(RuntimeError):
    """Named like torch's own, which is recognised without importing torch."""


ERRORS = [
    (errors.InputError("photo.jpg is broken", "remove it"), 3),
    (errors.OutputExists("scene exists", "--overwrite"), 3),
    (errors.OutputError("can't write", "do this"), 3),
    (errors.MissingDependency("HEIC photos need pillow_heif", "do this"), 3),
    (errors.MemoryExceeded("does not fit", "do this"), 4),
    (errors.WeightsError("no weights", "do this"), 5),
    (errors.PartialResult("3 of 8", "do this"), 6),
    (errors.ReconstructionError("no cameras", "do this"), 7),
    (errors.VerificationError("mesh.ply does not read back", "do this"), 7),
    (MemoryError(), 4),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), 4),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 4),
    (OSError(errno.ENOSPC, "No space left on device", "scene/mesh.ply"), 3),
    (KeyboardInterrupt(), 130),
    (ValueError("shapes (3,)\nand (4,)"), 1),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_error_has_its_exit_code_and_no_traceback(failing, capsys, error, code):
    failing(error)
    assert run(["reconstruct", "photos", "-o", "scene"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    if isinstance(error, FlareError):
        assert err.splitlines()[0] == f"error: {error.message}"
        assert error.hint in err


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_with_json_every_error_is_one_object(failing, capsys, error, code):
    failing(error)
    assert run(["reconstruct", "photos", "-o", "scene", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    assert answer["error"]
    assert "\n" not in answer["message"]


def test_a_defect_says_so_and_how_to_see_more(failing, capsys):
    failing(ValueError("shapes (3,)\nand (4,)"))
    run(["reconstruct", "photos", "-o", "scene"])
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: internal error: ValueError: shapes (3,) and (4,)"
    assert "--debug" in second


def test_debug_shows_the_traceback_and_keeps_the_exit_code(failing, capsys):
    failing(errors.InputError("photo.jpg is broken", "do this"))
    assert run(["reconstruct", "photos", "-o", "scene", "--debug"]) == 3
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-2:] == ["error: photo.jpg is broken", "hint: do this"]


def test_a_disk_error_of_another_kind_is_not_taken_for_a_full_disk():
    assert as_flare_error(OSError(errno.EIO, "Input/output error")) is None
    assert as_flare_error(RuntimeError("shapes")) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["reconstruct"],
        ["reconstruct", "photos"],
        ["reconstruct", "photos", "-o", "x", "--preset", "slow"],
        ["reconstruct", "photos", "-o", "x", "--max-memory", "lots"],
        ["reconstruct", "photos", "-o", "x", "--min-registered", "1.5"],
        ["reconstruct", "photos", "-o", "x", "--export", "colmap,cad"],
        ["batch", "-o", "x"],
        ["export", "scene", "--to", "cad"],
        ["weights", "sell"],
        ["eval", "scene"],
    ],
)
def test_usage_errors_are_code_2_in_both_modes(capsys, arguments):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage:" in err
    assert run([*arguments, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["error"], answer["exit_code"]) == ("UsageError", 2)


def test_an_unknown_format_is_answered_with_the_known_ones(capsys):
    run(["reconstruct", "photos", "-o", "x", "--export", "cad", "--json"])
    message = json.loads(capsys.readouterr().out)["message"]
    assert "cad" in message
    assert "colmap" in message
    assert "gaussians" in message


def test_help_lists_every_command_and_three_examples():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert {each.name for each in (*app.registered_commands, *app.registered_groups)} == set(COMMANDS)
    for command in COMMANDS:
        assert command in result.stdout
    assert result.stdout.count("flare reconstruct ") + result.stdout.count("flare batch ") == 3
    assert "--install-completion" in result.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "weights list", "weights pull", "weights verify", "weights path"])
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_groups_the_options_of_reconstruct_and_shows_defaults():
    text = CliRunner().invoke(app, ["reconstruct", "--help"], env={"COLUMNS": "160"}).stdout
    for panel in ("Input", "Model", "Memory", "Refine", "Output", "Messages"):
        assert f"─ {panel} ─" in text
    for default in ("[default: flare-small]", "[default: balanced]", "[default: auto]", "[default: tsdf]"):
        assert default in text


def test_version_names_torch_and_its_build(capsys):
    assert run(["--version"]) == 0
    line = capsys.readouterr().out.strip()
    assert line == version_line()
    assert f"flarecli {__version__}" in line
    assert "torch 2" in line


@pytest.mark.parametrize(
    ("build", "expected"),
    [("2.13.0+cpu", "no CUDA"), ("2.13.0+cu130", "CUDA 13.0"), ("2.13.0", "default build"), ("2.13.0+rocm6", "rocm6")],
)
def test_version_reads_the_build_off_the_wheel(monkeypatch, build, expected):
    monkeypatch.setattr("flarecli.cli.app.version", lambda name: build)
    assert expected in version_line()


def test_shell_completion_answers():
    environment = os.environ | {"_FLARE_COMPLETE": "complete_bash", "COMP_WORDS": "flare rec", "COMP_CWORD": "1"}
    answer = subprocess.run(FLARE, env=environment, capture_output=True, text=True, timeout=60)
    assert "reconstruct" in answer.stdout


def test_an_interrupt_that_a_library_renames_is_still_one(capsys):
    try:
        try:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        except ImportError as error:
            raise RuntimeError("can't import the C++ backend") from error
    except RuntimeError as error:
        assert report(error, as_json=False) == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    assert report(RuntimeError("by itself"), as_json=False) == 1


SLOW_PIPELINE = """
import sys, time
from pathlib import Path
from flarecli import pipeline
from flarecli.cli.app import main
def run_scene(job, *, on_progress=None, network=None):
    on_progress("matching", 0, 0)
    Path(sys.argv[-1]).write_text("started")
    time.sleep(60)
pipeline.run_scene = run_scene
main()
"""


def interrupted(command: list[str], tmp_path: Path, number: int) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a slow pipeline that is sent a signal in its middle."""
    started = tmp_path / "started"
    arguments = ["reconstruct", "photos", "-q", "-o", str(tmp_path / "scene"), "--", str(started)]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_with_one_line_and_130(tmp_path, number):
    command = [sys.executable, "-c", SLOW_PIPELINE]
    assert interrupted(command, tmp_path, number) == (130, "", "interrupted")


def test_ctrl_c_in_code_made_from_text_ends_with_130_too(tmp_path):
    (tmp_path / "slow_flare.py").write_text(SLOW_PIPELINE.replace("time.sleep(60)", "exec('time.sleep(60)')"))
    command = [sys.executable, "-m", "slow_flare"]
    assert interrupted(command, tmp_path, signal.SIGINT) == (130, "", "interrupted")


def test_a_reader_that_leaves_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    answer = subprocess.run([*FLARE, "formats"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert "Traceback" not in answer.stderr
    assert "BrokenPipe" not in answer.stderr


NOISY_PIPELINE = """
import os
from pathlib import Path
from flarecli import pipeline
from flarecli.cli.app import main
def run_scene(job, *, on_progress=None, network=None):
    print("a library prints")
    os.write(1, b"and a C++ library too\\n")
    return pipeline.SceneResult(output=Path("scene"), exit_code=6, manifest={"bad": float("nan")})
pipeline.run_scene = run_scene
main()
"""


def test_with_json_nothing_else_reaches_stdout():
    command = [sys.executable, "-c", NOISY_PIPELINE, "reconstruct", "photos", "-o", "scene", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 6
    assert json.loads(answer.stdout)["manifest"] == {"bad": None}
    assert "a library prints" in answer.stderr
    assert "and a C++ library too" in answer.stderr


def test_no_color_and_no_terminal_mean_plain_text(monkeypatch, capsys):
    monkeypatch.setattr(
        pipeline, "run_scene", lambda job, on_progress=None: SceneResult(output=Path("scene"), exit_code=0)
    )
    run(["reconstruct", "photos", "-o", "scene"])
    assert "\x1b" not in capsys.readouterr().err
