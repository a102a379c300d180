"""Render the example photos, their true cameras and depth with the path tracer Mitsuba 3.

Shows: how examples/photos and examples/truth were made; nothing in them was photographed or downloaded.
Needs: pip install mitsuba (not needed to use the photos); about 10 CPU minutes at the default quality.
Prints: one line per photo. Usage: python examples/make_photos.py [--out DIR] [--spp 36] [--scale 1.0] [--only 0,3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import mitsuba as mi  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from still_life_scene import build_scene

HERE = Path(__file__).parent
LONG, SHORT = 1024, 768
FOCAL_MM = 15.0
FOCAL_35MM = 30.0
FULL_FRAME_DIAGONAL_MM = 43.2666
# f35 / 43.27 mm is the focal length over the diagonal, and the diagonal of 1024 x 768 is 1280 px.
FOCAL_PX = FOCAL_35MM / FULL_FRAME_DIAGONAL_MM * 1280.0
# Azimuth around the table in degrees, distance and height in metres, turned camera (EXIF orientation) or 1.
SHOTS = [
    (-40.0, 0.97, 0.50, 1),
    (-29.0, 1.03, 0.58, 1),
    (-18.0, 1.00, 0.46, 6),
    (-6.0, 1.06, 0.52, 1),
    (5.0, 1.00, 0.62, 1),
    (16.0, 1.04, 0.48, 1),
    (28.0, 0.98, 0.55, 8),
    (40.0, 1.02, 0.50, 1),
]


def w2c_of_shot(azimuth_deg: float, distance: float, height: float, rng: np.random.Generator) -> np.ndarray:
    """World-to-camera matrix (OpenCV axes) of a hand-held photo of the table's middle."""
    azimuth = np.radians(azimuth_deg)
    centre = np.array([distance * np.sin(azimuth), -distance * np.cos(azimuth), height]) + rng.normal(0, 0.012, 3)
    forward = np.array([0.0, 0.04, 0.13]) + rng.normal(0, 0.015, 3) - centre
    forward /= np.linalg.norm(forward)
    roll = np.radians(rng.normal(0, 1.5))
    right = np.cross(forward, [np.sin(roll), 0.0, np.cos(roll)])
    right /= np.linalg.norm(right)
    w2c = np.eye(4)
    w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    w2c[:3, 3] = -w2c[:3, :3] @ centre
    return w2c


def sensor(w2c: np.ndarray, size_hw: tuple[int, int], focal_px: float, spp: int, seed: int) -> dict[str, Any]:
    """A pinhole sensor for an OpenCV camera with centred principal point."""
    c2w = np.linalg.inv(w2c)
    # Mitsuba's camera looks along z with x to the left and y up.
    to_world = c2w @ np.diag([-1.0, -1.0, 1.0, 1.0])
    return {
        "type": "perspective",
        "fov_axis": "x",
        "fov": float(np.degrees(2 * np.arctan(size_hw[1] / 2 / focal_px))),
        "to_world": mi.ScalarTransform4f(to_world),
        "near_clip": 0.01,
        "film": {"type": "hdrfilm", "width": size_hw[1], "height": size_hw[0], "rfilter": {"type": "gaussian"}},
        "sampler": {"type": "independent", "sample_count": spp, "seed": seed},
    }


def true_depth(scene: Any, w2c: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], long_side: int) -> np.ndarray:
    """z-depth in metres through the pixel centres of a smaller image; 0 where nothing is hit."""
    scale = long_side / max(size_hw)
    height, width = round(size_hw[0] * scale), round(size_hw[1] * scale)
    c2w = np.linalg.inv(w2c)
    depth = np.zeros((height, width), np.float16)
    for row in range(height):
        for column in range(width):
            ray = np.linalg.inv(K) @ [(column + 0.5) / scale, (row + 0.5) / scale, 1.0]
            direction = c2w[:3, :3] @ ray
            hit = scene.ray_intersect(mi.Ray3f(c2w[:3, 3].tolist(), direction.tolist()))
            depth[row, column] = hit.t if hit.is_valid() else 0.0
    return depth


def exif_of(shot: int, orientation: int) -> Image.Exif:
    """EXIF of a camera that never was, with the true focal length."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "flarecli", "procedural", orientation
    exif[0x0131], exif[0x8298] = "examples/make_photos.py", "CC0 1.0"
    details = exif.get_ifd(0x8769)
    details[0x829A], details[0x829D], details[0x8827] = IFDRational(1, 60), IFDRational(8, 1), 400
    details[0x9003] = f"2026:01:01 12:00:{shot:02d}"
    details[0x920A], details[0xA405] = IFDRational(FOCAL_MM), round(FOCAL_35MM)
    return exif


def save_photo(image: Any, path: Path, shot: int, orientation: int) -> None:
    """Write a rendered image as the turned sensor saw it; orientation 6 means "turn right to see it upright"."""
    upright = np.array(mi.Bitmap(image).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, True))
    stored = np.rot90(upright, {1: 0, 6: 1, 8: -1}[orientation])
    Image.fromarray(stored).save(path, quality=91, exif=exif_of(shot, orientation))


def main() -> None:
    """Render everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--spp", type=int, default=36)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the photos and textures")
    parser.add_argument("--only", default="0,1,2,3,4,5,6,7", help="photos to render; the truth is written for all")
    options = parser.parse_args()
    mi.set_variant("scalar_rgb")
    photos, truth = options.out / "photos", options.out / "truth"
    photos.mkdir(parents=True, exist_ok=True)
    truth.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    cameras, depths = [], {}
    with tempfile.TemporaryDirectory() as folder:
        scene = mi.load_dict(build_scene(Path(folder), options.scale))
        for index, (azimuth, distance, height, orientation) in enumerate(SHOTS):
            w2c = w2c_of_shot(azimuth, distance, height, rng)
            long, short = round(LONG * options.scale), round(SHORT * options.scale)
            size_hw = (short, long) if orientation == 1 else (long, short)
            focal = FOCAL_PX * options.scale
            K = np.array([[focal, 0, size_hw[1] / 2], [0, focal, size_hw[0] / 2], [0, 0, 1]])
            name = f"IMG_{index + 1:04d}.jpg"
            if str(index) in options.only.split(","):
                view = mi.load_dict(sensor(w2c, size_hw, focal, options.spp, index))
                save_photo(mi.render(scene, sensor=view, seed=index), photos / name, index, orientation)
            depths[name] = true_depth(scene, w2c, K, size_hw, 256)
            cameras.append(
                {
                    "name": name,
                    "width": size_hw[1],
                    "height": size_hw[0],
                    "K": K.tolist(),
                    "R": w2c[:3, :3].tolist(),
                    "t": w2c[:3, 3].tolist(),
                    "distortion": [0.0] * 4,
                }
            )
            print(f"{name}: {size_hw[1]} x {size_hw[0]}, depth {depths[name].min():.2f} to {depths[name].max():.2f} m")
    header = {
        "convention": "OpenCV world-to-camera",
        "pixel_origin": "centre of the top-left pixel is (0.5, 0.5); pixels of the upright photo",
        "scene": "still-life",
        "ground_truth": "rendered",
        "unit": "metre",
        "licence": "CC0 1.0",
        "single_camera": True,
    }
    (truth / "cameras.json").write_text(json.dumps({**header, "images": cameras}, indent=1) + "\n")
    np.savez_compressed(truth / "depth.npz", **depths)


if __name__ == "__main__":
    main()
