"""Reconstruct a folder of photos from Python.

Shows: the whole program in five lines, and where each kind of file lies afterwards.
Needs: nothing but flarecli; photos and output folder may be given: python examples/01_reconstruct.py [PHOTOS] [SCENE]
Prints: what became of every photo.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flarecli

EXAMPLES = Path(__file__).parent


def main(photos: Path = EXAMPLES / "photos", output: Path = Path("scene-01")) -> None:
    """Reconstruct and report."""
    result = flarecli.reconstruct(photos, output, overwrite=True)
    for photo in result.manifest["photos"]:
        print(f"{photo['name']}: {photo['status']} {photo['reason']}".rstrip())
    scene = flarecli.load_scene(result.output)
    print(f"{len(scene)} cameras, {len(scene.tracks)} sparse and {len(scene.points)} dense points in {result.output}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
