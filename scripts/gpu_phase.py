"""Run one phase of the training on a GPU machine without network.

usage: python scripts/gpu_phase.py --textures textures.tar --output OUT --minutes 18 [--phase 1] [--start WEIGHTS]
       [--photos FOLDER...] [--captures SCENE...] [--compile]

--photos are measured on and never trained on, --captures (folders that flare reconstruct wrote, for example) are
trained on in a quarter of the steps. --compile has torch.compile translate the attention blocks; run both ways for a
minute first, and take the one with more samples.

Everything it needs fits into one upload of 64 MiB: the checkout, the texture pack and, from the second phase on, the
weights of the one before. OUT then holds checkpoint shards of at most 16 MiB, the curve (run/metrics.jsonl), the
measurements (report.json) and the weights file. Minutes are those of training; allow three more for the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flarecli.train.campaign import PHASES, Campaign, run_phase


def main() -> None:
    """Read the options, run the phase, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
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
