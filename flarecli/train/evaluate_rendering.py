"""How well views that the network did not see are rendered from its Gaussians, on held-out synthetic scenes."""

from __future__ import annotations

from dataclasses import fields

import torch

from flarecli.model.flare_small import FlareSmall
from flarecli.render.quality import psnr, ssim
from flarecli.train.augment import augment
from flarecli.train.data import STORED_VIEWS, ShardSource
from flarecli.train.gaussian_depth import KINDS
from flarecli.train.generator import Batch
from flarecli.train.primitives import Draw
from flarecli.train.render_loss import in_unit, scene_splats, show_view

_MILD = 0.25


@torch.no_grad()
def evaluate_rendering(
    network: FlareSmall, held_out: ShardSource, scenes: int, seen: int, device: torch.device
) -> dict[str, float]:
    """Means over all views that the network did not see, cameras exact.

    Args:
        network: with a Gaussian head.
        held_out: scenes of four views.
        scenes: how many of them.
        seen: views of each that the network sees.
        device: where the network is.

    Returns:
        ``psnr_exact``, ``psnr_network``, ``psnr_measured`` in dB and ``ssim_...``, for Gaussians on exact depth, on the
        network's, and on depth as a refinement leaves it (see :mod:`flarecli.train.gaussian_depth`).
    """
    was_training = network.training
    network.eval()
    draw, rows = Draw.seeded(12), {kind: list[tuple[float, float]]() for kind in KINDS}
    for stored in held_out.fixed(scenes, STORED_VIEWS):
        for one in range(len(stored.kind)):
            batch = Batch(*(getattr(stored, each.name)[one : one + 1] for each in fields(Batch)))
            photographed = Batch(augment(batch.rgb, draw, _MILD), *(getattr(batch, f.name) for f in fields(Batch)[1:]))
            batch = in_unit(photographed.to(device))
            out = network(batch.rgb[:, :seen], batch.portrait[:, :seen], with_gaussians=True)
            for index, kind in enumerate(KINDS):
                kinds = torch.full((1,), index, device=device)
                splats = scene_splats(out, batch, kinds, Draw.seeded(one, device))[0]
                for view in range(seen, STORED_VIEWS):
                    shown, rgb, _ = show_view(splats, batch, 0, view)
                    color = shown.color[0].clamp(0, 1)
                    rows[kind].append((psnr(color, rgb), float(ssim(color, rgb))))
    network.train(was_training)
    found = {}
    for kind, values in rows.items():
        mean = torch.tensor(values).mean(0)
        found |= {f"psnr_{kind}": round(float(mean[0]), 3), f"ssim_{kind}": round(float(mean[1]), 4)}
    return found
