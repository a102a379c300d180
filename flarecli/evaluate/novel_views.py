"""Novel views: photos are held out of a scene's Gaussians, rendered, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flarecli.appearance.align import align_camera
from flarecli.appearance.holdout import choose_held_out, gaussians_without
from flarecli.appearance.photos import Progress, View, load_views, rendering_device, show
from flarecli.errors import InputError
from flarecli.export.archive import load_scene
from flarecli.render.quality import psnr, ssim
from flarecli.render.splats import Splats

if TYPE_CHECKING:
    from flarecli.evaluate.lpips import Lpips

_LEAST_SIDE, _LEAST_SIDE_LPIPS = 11, 32  # the window of SSIM; what is left of a picture in the last stage of LPIPS


@dataclass(frozen=True, kw_only=True)
class NovelViewOptions:
    """How novel views are judged.

    Attributes:
        hold_out: every k-th photo, or names; None as :func:`choose_held_out`.
        long_side: of the pictures that are compared.
        lpips_weights: backbone weights for LPIPS; None leaves it out.
        align_poses: also give figures after moving each held-out camera to where it fits best.
        device: auto, cpu, cuda, cuda:N.
    """

    hold_out: int | Sequence[str] | None = None
    long_side: int = 512
    lpips_weights: Path | None = None
    align_poses: bool = False
    device: str = "auto"


def evaluate_novel_views(scene: Path, options: NovelViewOptions, on_progress: Progress | None = None) -> dict[str, Any]:
    """Rebuild the scene's first Gaussians without some photos and compare these photos with renderings.

    The cameras of all photos are the scene's own, found with the held-out photos too; the Gaussians hold nothing of
    their depth or colours. Masked-out pixels don't count for PSNR and SSIM.

    Returns:
        JSON values: ``held_out`` (names), ``gaussians``, ``long_side``, means over the held-out photos ``psnr_db``,
        ``ssim``, ``lpips`` (None without weights), ``covered`` (share of pixels with opacity above a half), then
        ``lpips_backbone``, ``photos_by_name`` (the same per photo), and ``aligned`` (None unless asked for): the means
        after moving each camera to where its picture fits best, which leaves errors of the held-out cameras out of
        account, as the papers do.

    Raises:
        InputError: no such scene, a set of photos that can't be held out, or pictures that are too small to compare.
        WeightsError: the LPIPS weights are none.
    """
    from flarecli.evaluate.lpips import Lpips

    reconstruction = load_scene(scene)
    held_out = choose_held_out(reconstruction.image_names, options.hold_out)
    lpips = None if options.lpips_weights is None else Lpips(options.lpips_weights)
    device = rendering_device(options.device)
    splats = Splats.of(gaussians_without(reconstruction, held_out), device)
    views = load_views(scene, reconstruction, options.long_side, device, names=held_out)
    least = _LEAST_SIDE if lpips is None else _LEAST_SIDE_LPIPS
    for view in views:
        if min(view.size_hw) < least:
            size = " x ".join(map(str, view.size_hw[::-1]))
            raise InputError(
                f"{view.name} is compared at {size} pixels, and {'SSIM' if lpips is None else 'LPIPS'} needs {least} a "
                "side",
                "give a larger --long-side, or hold out larger photos",
            )
    photos: dict[str, dict[str, float | None]] = {}
    aligned: dict[str, dict[str, float | None]] = {}
    for index, view in enumerate(views):
        photos[view.name] = compare(splats, view, lpips)
        if options.align_poses:
            aligned[view.name] = compare(splats, align_camera(splats, view).view, lpips)
        if on_progress:
            on_progress("novel views", index + 1, len(views))
    return {
        "held_out": list(held_out),
        "gaussians": len(splats),
        "long_side": options.long_side,
        **_means(photos),
        "lpips_backbone": None if lpips is None else lpips.backbone,
        "photos_by_name": photos,
        "aligned": _means(aligned) if aligned else None,
    }


@torch.no_grad()
def compare(splats: Splats, view: View, lpips: Lpips | None = None) -> dict[str, float | None]:
    """PSNR in dB, SSIM, LPIPS (None without a network) and covered share of one photo."""
    rendered = show(splats, view)
    color = rendered.color[0].clamp(0, 1)
    return {
        "psnr_db": psnr(color, view.rgb, view.weight),
        "ssim": float(ssim(color, view.rgb, view.weight)),
        "lpips": None if lpips is None else lpips(color, view.rgb),
        "covered": float((rendered.alpha[0] > 0.5).float().mean()),
    }


def _means(photos: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in next(iter(photos.values())):
        values = [value for photo in photos.values() if (value := photo[name]) is not None]
        out[name] = float(np.mean(values)) if values else None
    return out
