"""How far cameras are found back when they are fitted to what a scene's Gaussians look like, and what that costs.

Every photo's camera is turned and shifted by the same amount (degrees, and the same share of the depth), then aligned.
The picture to find is rendered from the true camera, made darker and noisy (``--target render``), or the photo itself
(``--target photo``), whose camera the Gaussians only know as well as they are good.

    python benchmarks/pose_fit.py scene --degrees 0.5 2 5 8
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flarecli.appearance.align import align_camera
from flarecli.appearance.photos import View, load_views, show
from flarecli.appearance.poses import moved_cameras
from flarecli.export.archive import load_scene
from flarecli.export.gaussian_files import scene_gaussians
from flarecli.geometry.transforms import rotation_angle_deg
from flarecli.render.splats import Splats


def disturbed(view: View, degrees: float, depth: float, generator: np.random.Generator) -> View:
    """The view with its camera turned by an angle and shifted by as many radians times the depth."""
    turn, shift = (v / np.linalg.norm(v) * np.deg2rad(degrees) for v in generator.normal(size=(2, 3)))
    move = torch.tensor(np.concatenate([turn, shift])[None], dtype=torch.float32)
    return replace(view, w2c=moved_cameras(view.w2c[None], move, depth)[0])


def rendered(splats: Splats, view: View) -> View:
    """The view with a darker, noisy picture of the Gaussians as its photo."""
    with torch.no_grad():
        picture = show(splats, view).color[0].clamp(0, 1)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return replace(view, rgb=(0.9 * picture + 0.03 + 0.02 * noise).clamp(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--degrees", type=float, nargs="+", default=[0.5, 2.0, 5.0, 8.0])
    parser.add_argument("--target", choices=["render", "photo"], default="render")
    parser.add_argument("--long-side", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reconstruction = load_scene(options.scene)
    splats = Splats.of(scene_gaussians(reconstruction))
    views = load_views(options.scene, reconstruction, options.long_side)
    print(f"{len(splats)} Gaussians, {len(views)} photos, {options.target}; medians over the photos")
    print("degrees  rotation off  shift / depth  loss before  loss after  CPU s  within half a degree")
    for degrees in options.degrees:
        generator, rows = np.random.default_rng(0), []
        for view in views:
            true = rendered(splats, view) if options.target == "render" else view
            with torch.no_grad():
                depth = float(show(splats, true).depth.median())
            started = time.process_time()
            aligned = align_camera(splats, disturbed(true, degrees, depth, generator))
            seconds = time.process_time() - started
            found, right = (torch.linalg.inv(each.w2c.double()).numpy() for each in (aligned.view, true))
            angle = float(rotation_angle_deg(found[:3, :3], right[:3, :3]))
            shift = float(np.linalg.norm(found[:3, 3] - right[:3, 3])) / depth
            rows.append((angle, shift, aligned.loss_before, aligned.loss_after, seconds))
        middle = np.median(rows, axis=0)
        close = sum(row[0] < 0.5 for row in rows)
        print(
            f"{degrees:7.1f}  {middle[0]:12.3f}  {middle[1]:13.4f}  {middle[2]:11.4f}  {middle[3]:10.4f}  "
            f"{middle[4]:5.1f}  {close} of {len(rows)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
