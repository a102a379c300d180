"""From Gaussians in the frame of the first view to what every network returns."""

from __future__ import annotations

import numpy as np
import poselib
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flarecli.geometry.projection import pixel_grid
from flarecli.geometry.transforms import invert_rigid, rigid
from flarecli.scene.views import GaussianMaps, Prediction, Views

_MIN_OPACITY = 0.3
_MAX_ERROR_PX = 5.0
_ITERATIONS = 1000
_MAX_POINTS = 5000
_MIN_POINTS = 6


def upright_views(views: Views) -> tuple[Float[Tensor, "1 V 3 H W"], Float[Tensor, "1 V 3 3"] | None]:
    """Colours and intrinsics of square views, none of them transposed.

    Raises:
        ValueError: the views are not square, so portrait ones would have another shape.
    """
    if views.rgb.shape[-2] != views.rgb.shape[-1]:
        raise ValueError(f"this network takes square views, not {tuple(views.rgb.shape[-2:])}")
    rgb = torch.where(views.portrait[:, None, None, None], views.rgb.transpose(-1, -2), views.rgb)
    return rgb[None], None if views.K is None else views.K[None]


def fractions(K: Float[Tensor, "*v 3 3"], size_hw: tuple[int, int]) -> Float[Tensor, "*v 3 3"]:
    """Intrinsics in fractions of the image's width and height instead of pixels."""
    return K / torch.tensor([size_hw[1], size_hw[0], 1.0], device=K.device)[:, None]


def poses_from_centres(
    points: Float[Tensor, "V H W 3"], opacities: Float[Tensor, "V H W"], K: Float[Tensor, "V 3 3"]
) -> Float[Tensor, "V 4 4"]:
    """Camera-to-world poses under which each view's Gaussians project onto their own pixels; view 0 is the world.

    A view without enough opaque Gaussians, or whose centres fit no camera, gets the pose of view 0.

    Source: the published pose evaluation of NoPoSplat: PnP with RANSAC, opacity above 0.3, 5 pixels. What follows
    there, a photometric refinement, is no part of it.
    """
    poses = [np.eye(4)]
    for view in range(1, len(points)):
        poses.append(_pose_of_view(*(each[view].detach().cpu().double().numpy() for each in (points, opacities, K))))
    return torch.from_numpy(np.stack(poses)).to(points)


def _pose_of_view(points: np.ndarray, opacities: np.ndarray, K: np.ndarray) -> np.ndarray:
    height, width = opacities.shape
    use = (opacities > _MIN_OPACITY).ravel() & np.isfinite(points).all(-1).ravel()
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(use))[:_MAX_POINTS]
    if len(chosen) < _MIN_POINTS:
        return np.eye(4)
    camera = {"model": "PINHOLE", "width": width, "height": height}
    camera["params"] = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    options = {"max_reproj_error": _MAX_ERROR_PX, "max_iterations": _ITERATIONS, "seed": 0}
    pixels = pixel_grid(height, width).reshape(-1, 2)
    pose, found = poselib.estimate_absolute_pose(pixels[chosen], points.reshape(-1, 3)[chosen], camera, options, {})
    rotation, translation = np.asarray(pose.R), np.asarray(pose.t)
    if found["num_inliers"] < _MIN_POINTS or not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        return np.eye(4)
    return invert_rigid(rigid(rotation, translation))


def prediction_of(
    points: Float[Tensor, "V H W 3"],
    gaussians: GaussianMaps,
    c2w: Float[Tensor, "V 4 4"],
    portrait: Bool[Tensor, "V"],
    *,
    confidence: Float[Tensor, "V H W"] | None = None,
    focal: Float[Tensor, "V"] | None = None,
) -> Prediction:
    """The prediction that Gaussians and poses stand for, in landscape storage.

    Points in each camera's own frame are those of the first camera, moved by the poses.

    Args:
        points: centres in the frame of view 0, upright.
        gaussians: the same pixels, upright.
        c2w: poses in the frame of view 0, in the unit of the points.
        portrait: which views are to be stored transposed.
        confidence: above 1; None takes 1 + opacity for networks that say nothing else about it.
        focal: see :class:`Prediction`.
    """

    def stored(values: Tensor) -> Tensor:
        turn = portrait.reshape(-1, *[1] * (values.ndim - 1))
        return torch.where(turn, values.transpose(1, 2), values)

    local = torch.einsum("vhwi,vij->vhwj", points - c2w[:, None, None, :3, 3], c2w[:, :3, :3])
    trust = stored(1 + gaussians.opacities if confidence is None else confidence)
    return Prediction(
        coarse_c2w=c2w,
        refined_c2w=c2w,
        focal=focal,
        points_local=stored(local),
        confidence_local=trust,
        points_global=stored(points),
        confidence_global=trust,
        gaussians=gaussians.map(stored),
    )
