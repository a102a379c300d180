"""Train a network for a moment, from a configuration file written here.

Shows: the smallest useful TOML for flare train; scenes are rendered on the fly from procedural shapes.
Needs: a C compiler for the renderer on the CPU, or a GPU: python examples/05_train_small.py [FOLDER] [STEPS]
Prints: two of the losses over the steps. So short a run teaches nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flarecli.train.loop import train_from_toml

EXAMPLES = Path(__file__).parent
CONFIG = """
output = "{folder}/run"
minutes = 3.0
max_steps = {steps}
warmup = 2
log_every = 1
textures = "{textures}"
texture_size = 32

[[phases]]
share = 1.0
images = 4
views = [2]
canvases = [[48, 64]]
"""


def main(folder: Path = Path("train-05"), steps: int = 3) -> list[dict[str, float]]:
    """Train, then read the metrics; returns one row per logged step."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "train.toml"
    config.write_text(CONFIG.format(folder=folder.as_posix(), steps=steps, textures=(EXAMPLES / "photos").as_posix()))
    checkpoint = train_from_toml(config)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        print(f"step {line['step']}: pose {line['pose_refined']:.3f}, local points {line['local']:.3f}")
    print(f"wrote {checkpoint}")
    return lines


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["train-05"]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
