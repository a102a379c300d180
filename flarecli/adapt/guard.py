"""How good the network is on photos that it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from flarecli.adapt.gaussians import context_splats, show_view
from flarecli.adapt.study import Study
from flarecli.inference.predict import plan_windows
from flarecli.model.flare_small import FlareSmall
from flarecli.model.small_grid import MAX_VIEWS
from flarecli.render.quality import psnr
from flarecli.scene.views import GaussianMaps

_STRIDE = 2


@torch.no_grad()
def held_out_psnr(network: FlareSmall, study: Study, learned: Sequence[int], held_out: Sequence[int]) -> float:
    """Mean PSNR in dB of held-out photos, rendered at their solved cameras from Gaussians of the other photos.

    Args:
        network: with a Gaussian head, in any mode; it comes back in the same.
        study: at the size of the network's input.
        learned: photos that the Gaussians come from; the network sees no others here.
        held_out: photos that are compared.
    """
    training = network.training
    network.eval()
    depth: dict[int, torch.Tensor] = {}
    gaussians: dict[int, GaussianMaps] = {}
    for window in plan_windows(list(learned), MAX_VIEWS):
        out = network(study.rgb[window][None], study.portrait[window], with_gaussians=True)
        assert out.local is not None and out.gaussians is not None  # all stages were run
        for row, view in enumerate(window):
            depth.setdefault(view, out.local.points[0, row, ..., 2])
            gaussians.setdefault(view, out.gaussians.map(lambda each, row=row: each[0, row]))
    network.train(training)
    views = list(learned)
    names = ("scales", "quats_wxyz", "opacities", "sh")
    joined = {name: torch.stack([getattr(gaussians[view], name) for view in views]) for name in names}
    maps = replace(gaussians[views[0]], **joined)
    splats = context_splats(study, views, torch.stack([depth[view] for view in views]), maps, stride=_STRIDE)
    scores = []
    for view in held_out:
        shown, rgb, use = show_view(splats, study, view)
        scores.append(psnr(shown.color[0], rgb, use))
    return sum(scores) / len(scores)
