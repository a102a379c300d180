"""Cameras of networks without a pose head, fitted to their photos.

Such a network predicts Gaussians; PnP on their centres gives the first cameras, and what the Gaussians look like from
there says how they are off.

Source: Ye et al., NoPoSplat, arXiv 2410.24207, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from flarecli.appearance.align import align_camera
from flarecli.appearance.photos import View
from flarecli.geometry.transforms import exact_rigid, invert_rigid, rotation_angle_deg
from flarecli.images.preparing import Prepared
from flarecli.render.splats import Splats
from flarecli.scene.gaussians import Gaussians


def fit_network_poses(
    gaussians: Sequence[Gaussians],
    c2w: Float[np.ndarray, "V 4 4"],
    K: Float[np.ndarray, "V 3 3"],
    prepared: Prepared,
    windows: Sequence[Sequence[int]],
    device: torch.device,
) -> tuple[Float[np.ndarray, "V 4 4"], dict[str, Any]]:
    """Move every camera but the first window's reference to where the Gaussians around it look like its photo.

    Each photo is compared with the Gaussians of the first window that it is in; those stay where they are.

    Args:
        gaussians: of every photo, in the frame of its own camera.
        c2w: their poses.
        K: intrinsics in pixels of the prepared views, upright.
        prepared: what the network saw.
        windows: photos of every pass through the network, its reference first.
        device: that renders.

    Returns:
        The poses, and what the manifest tells: how many were fitted, their mean loss before and after, and the largest
        rotation in degrees.
    """
    in_world = [each.moved(pose) for each, pose in zip(gaussians, c2w, strict=True)]
    out, before, after = np.array(c2w), [], []
    done = {windows[0][0]}
    for window in windows:
        splats = Splats.of(Gaussians.joined([in_world[photo] for photo in window]), device)
        for photo in window:
            if photo in done:
                continue
            aligned = align_camera(splats, _view(prepared, photo, c2w[photo], K[photo], device))
            before.append(aligned.loss_before)
            after.append(aligned.loss_after)
            if aligned.loss_after < aligned.loss_before:
                out[photo] = invert_rigid(exact_rigid(aligned.view.w2c.detach().cpu().numpy()))
            done.add(photo)
    turned = rotation_angle_deg(out[:, :3, :3], np.asarray(c2w)[:, :3, :3])
    note = {"photos": len(before), "loss": [round(float(np.mean(each)), 5) for each in (before, after)]}
    return out, note | {"largest_turn_deg": round(float(np.max(turned)), 3)}


def _view(prepared: Prepared, photo: int, c2w: np.ndarray, K: np.ndarray, device: torch.device) -> View:
    rgb = prepared.views.rgb[photo].permute(1, 2, 0)
    weight = torch.ones(rgb.shape[:2]) if prepared.masks is None else prepared.masks[photo].float()
    if prepared.views.portrait[photo]:
        rgb, weight = rgb.transpose(0, 1), weight.T
    w2c = torch.tensor(invert_rigid(c2w), dtype=torch.float32)
    values = (rgb, weight, w2c, torch.tensor(K, dtype=torch.float32))
    return View(str(photo), *(value.contiguous().to(device) for value in values))
