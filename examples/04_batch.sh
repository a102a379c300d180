#!/bin/sh
# Reconstruct many folders, each as its own scene, and act on what came out.
#
# Shows: flare batch with its JSON object on stdout, and the exit codes.
# Needs: flare and python3 on the PATH, and folders of photos: examples/04_batch.sh OUT DIR...
# Prints: name, status and seconds of every scene. Run again, it keeps what is finished (--resume).
set -u
if [ $# -lt 2 ]; then
    echo "usage: $0 OUT DIR..." >&2
    exit 2
fi
out=$1
shift
mkdir -p "$out"
flare batch "$@" -o "$out" --resume --json --quiet >"$out.json"
code=$?
python3 - "$out.json" <<'END'
import json, sys
for row in json.load(open(sys.argv[1])).get("scenes", []):
    print(f"{row['name']}: {row['status']}, {row['seconds']} s")
END
case $code in
0) echo "all scenes are whole" ;;
6) echo "some scenes are partial or failed" ;;
*) echo "nothing usable (exit code $code): see $out.json" ;;
esac
exit $code
