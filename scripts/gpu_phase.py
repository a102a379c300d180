"""Run one phase of the training on a GPU machine without network.

usage: python scripts/gpu_phase.py --textures textures.tar --output OUT --minutes 18 [--phase 1] [--start WEIGHTS]
       [--work FOLDER] [--photos FOLDER...] [--captures SCENE...] [--compile]

--photos are measured on and never trained on. --captures (folders that flare reconstruct wrote, for example) are
trained on in a quarter of the steps of 2 to 4 views: a quarter of all in phase 1, 19 % in phase 2, whose steps of 6 and
8 views are all rendered; phase 3 takes none. --compile has torch.compile translate the attention blocks; run both ways
for a minute first, and take the one with more samples.

OUT then holds what has to travel, for size s in seven files below 16 MiB: weights/ (the averaged weights as shards, and
state.json), the curve (metrics.jsonl) and the measurements (report.json). The next phase starts from them with --start
OUT/weights and an OUT of its own, and `flare weights convert flare-small OUT/weights flare-small.safetensors` makes the
file that flare reconstruct reads. Textures, held-out scenes, captures and the checkpoint that a run cut off goes on
from (92 MiB for size s) stay in --work, by default OUT-work, on that machine.

Uploads: the checkout has 14 MiB, the texture pack 34 MiB, weights of size s 46 MiB. Phase 1 fits into one upload of
64 MiB; from phase 2 on the texture pack goes up first and is copied out of the checkout, then the weights follow in an
upload of their own while the machine is still held. Where a call may last less than the phase, start the
script in the background and let a later call copy OUT; a phase that was cut off goes on from --work.

Minutes are those of the training loop, loading of its textures and its validations included; allow three more for the
checks before and the measurements after it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flarecli.train.campaign import Campaign, run_phase
from flarecli.train.phases import PHASES


def main() -> None:
    """Read the options, run the phase, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--phase", type=int, choices=sorted(PHASES), default=1)
    parser.add_argument("--size", default="s")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--captures", type=Path, nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--long-side", type=int, default=224)
    parser.add_argument("--texture-size", type=int, default=256)
    parser.add_argument("--images", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--held-out", type=int, default=256)
    options = vars(parser.parse_args())
    lists = {name: tuple(options[name]) for name in ("photos", "captures")}
    report = run_phase(Campaign(**{**options, **lists}))
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
