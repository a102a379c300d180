"""Measure a scene against known cameras and depth.

Shows: evaluate_scene with the truth of the example photos (a COLMAP model or transforms.json works as well).
Needs: a scene of examples/photos: python examples/03_measure_poses.py [SCENE] [REFERENCE]
Prints: pose accuracy in percent, focal and depth error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flarecli.evaluate.scene import evaluate_scene

EXAMPLES = Path(__file__).parent


def main(scene: Path = Path("scene-01"), reference: Path = EXAMPLES / "truth" / "cameras.json") -> dict[str, Any]:
    """Measure and report."""
    numbers = evaluate_scene(scene, reference)
    for name in ("registered", "AUC@5", "AUC@30", "focal_error_percent"):
        print(f"{name}: {numbers[name]:.4g}")
    if numbers["depth"] is not None:
        print(f"depth abs_rel: {numbers['depth']['abs_rel']:.4f}")
    return numbers


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
