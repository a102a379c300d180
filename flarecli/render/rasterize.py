"""The one function that renders Gaussians, whatever the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.render.projection import BLUR_PX2, camera_normals, colours, project
from flarecli.render.splats import Splats
from flarecli.runtime import require

_NO_ALPHA = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """Pictures of V cameras.

    Attributes:
        color: RGB, 0 to about 1, over the background.
        depth: expected z-depth in world units; 0 where nothing is.
        alpha: accumulated opacity.
        normals: unit normals in the camera's frame, zero where nothing is; None unless asked for.
        info: what a densification strategy of gsplat reads: means2d, radii, gaussian_ids, width, height, n_cameras.
    """

    color: Float[Tensor, "V H W 3"]
    depth: Float[Tensor, "V H W"]
    alpha: Float[Tensor, "V H W"]
    normals: Float[Tensor, "V H W 3"] | None
    info: dict[str, Any]


def render(  # noqa: PLR0913
    splats: Splats,
    w2c: Float[Tensor, "V 4 4"],
    K: Float[Tensor, "V 3 3"],
    size_hw: tuple[int, int],
    *,
    antialiased: bool = False,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    with_normals: bool = False,
    near: float = 0.01,
) -> Rendered:
    """Render Gaussians from V cameras of one size: by gsplat on CUDA, by our own kernels elsewhere.

    Differentiable in all tensors of ``splats`` and in ``w2c``.

    Args:
        splats: Gaussians on the device that renders them.
        w2c: world to camera, OpenCV axes.
        K: intrinsics in pixels of the pictures, centres at 0.5, no skew.
        size_hw: size of the pictures.
        antialiased: scale opacities by what the blur of 0.3 px adds to a footprint (Mip-Splatting's 2D filter).
        background: colour behind everything.
        with_normals: also give normals: the weighted mean of the Gaussians' shortest axes.
        near: what is closer, in world units, is not shown.
    """
    if splats.means.device.type == "cuda":
        color, depth, alpha, normals, info = _by_gsplat(splats, w2c, K, size_hw, antialiased, with_normals, near)
    else:
        color, depth, alpha, normals, info = _by_kernels(splats, w2c, K, size_hw, antialiased, with_normals, near)
    behind = torch.tensor(background, device=color.device, dtype=color.dtype)
    color = color + (1 - alpha)[..., None] * behind
    if normals is not None:
        normals = torch.nn.functional.normalize(normals, dim=-1)
    return Rendered(color, depth, alpha, normals, info)


def _by_kernels(
    splats: Splats, w2c: Tensor, K: Tensor, size_hw: tuple[int, int], antialiased: bool, normals: bool, near: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]]:
    from flarecli.render.compositing import composite

    footprints = [project(splats, w2c[v], K[v], size_hw, antialiased=antialiased, near=near) for v in range(len(w2c))]
    # The pictures are made of this stack, so that a strategy can ask for its gradient.
    means2d = torch.stack([each.means2d for each in footprints])
    images, alphas = [], []
    for view, footprint in enumerate(footprints):
        features = [colours(splats, w2c[view]), footprint.depths[:, None]]
        features += [camera_normals(splats, w2c[view])] if normals else []
        image, alpha = composite(replace(footprint, means2d=means2d[view]), torch.cat(features, -1), size_hw)
        images.append(image)
        alphas.append(alpha)
    stacked, alpha = torch.stack(images), torch.stack(alphas)
    info = {
        "means2d": means2d,
        "radii": torch.stack([each.radii for each in footprints]),
        "gaussian_ids": None,
        "width": size_hw[1],
        "height": size_hw[0],
        "n_cameras": len(w2c),
    }
    depth = torch.where(alpha > _NO_ALPHA, stacked[..., 3] / alpha.clamp_min(_NO_ALPHA), 0)
    return stacked[..., :3], depth, alpha, stacked[..., 4:] if normals else None, info


def _by_gsplat(
    splats: Splats, w2c: Tensor, K: Tensor, size_hw: tuple[int, int], antialiased: bool, normals: bool, near: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]]:
    rasterization = require("gsplat", "Gaussians on CUDA").rasterization

    shared: dict[str, Any] = {
        "means": splats.means,
        "quats": splats.quats_wxyz,
        "scales": splats.scales,
        "opacities": splats.opacities,
        "viewmats": w2c,
        "Ks": K,
        "width": size_hw[1],
        "height": size_hw[0],
        "near_plane": near,
        "eps2d": BLUR_PX2,
        "packed": False,
        "rasterize_mode": "antialiased" if antialiased else "classic",
    }
    image, alpha, info = rasterization(colors=splats.sh, sh_degree=splats.sh_degree, render_mode="RGB+ED", **shared)
    normal = None
    if normals:
        per_view = torch.stack([camera_normals(splats, each) for each in w2c])
        normal = rasterization(colors=per_view, render_mode="RGB", **shared)[0]
    return image[..., :3], image[..., 3], alpha[..., 0], normal, info
