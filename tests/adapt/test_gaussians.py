"""Gaussians of context views: from true depth they look like the photos that they did not come from."""

import dataclasses

import torch

from flarecli.adapt.gaussians import context_splats, scale_to_measured, show_view
from flarecli.model.small_gaussians import RAW_CHANNELS, activate
from flarecli.render.quality import psnr


def truth(study, context):
    depth = study.depth[context]
    rgb = study.rgb[context]
    maps = activate(torch.zeros(len(context), RAW_CHANNELS, *study.size_hw), rgb)
    return torch.where(depth > 0, depth, depth[depth > 0].median()), maps


def quality(splats, study, view) -> float:
    shown, rgb, use = show_view(splats, study, view)
    return psnr(shown.color[0], rgb, use * (shown.alpha[0] > 0.5))


def test_true_depth_on_any_scale_renders_an_unseen_photo(exact):
    study, context = exact.study, [0, 2, 3]
    depth, maps = truth(study, context)
    for target in (1, 4):  # a landscape and a portrait photo
        good = quality(context_splats(study, context, depth, maps), study, target)
        assert good > 16  # the Gaussians blur this fine texture
        scaled = context_splats(study, context, depth * torch.tensor([0.3, 1.0, 7.0])[:, None, None], maps)
        assert abs(quality(scaled, study, target) - good) < 0.05
        bad = depth * (1 + 0.3 * torch.linspace(-1, 1, depth.shape[2]))
        assert quality(context_splats(study, context, bad, maps), study, target) < good - 1.5


def test_fewer_and_larger_gaussians_still_cover(exact):
    study, context = exact.study, [0, 1, 3]
    depth, maps = truth(study, context)
    whole = context_splats(study, context, depth, maps)
    sparse = context_splats(study, context, depth, maps, stride=2)
    assert len(sparse) * 4 == len(whole)
    assert quality(sparse, study, 0) > 14
    covered = [float((show_view(each, study, 0)[0].alpha[0] > 0.5).float().mean()) for each in (whole, sparse)]
    assert covered[1] > covered[0] - 0.02


def test_depth_and_head_get_gradients_and_ignored_pixels_no_gaussians(exact):
    study, context = exact.study, [0, 1]
    depth, maps = truth(study, context)
    depth, opacities = depth.requires_grad_(), maps.opacities.clone().requires_grad_()
    splats = context_splats(study, context, depth, dataclasses.replace(maps, opacities=opacities))
    shown, rgb, _ = show_view(splats, study, 3)
    (shown.color[0] - rgb).square().mean().backward()
    for each in (depth, opacities):
        assert each.grad is not None and each.grad.isfinite().all() and (each.grad != 0).float().mean() > 0.3
    masked = study.use.clone()
    masked[0, :36] = 0
    fewer = context_splats(dataclasses.replace(study, use=masked), context, depth.detach(), maps)
    assert len(fewer) == 2 * 72 * 96 - 36 * 96


def test_views_without_measured_depth_have_no_scale_and_give_nothing(exact):
    measured = exact.study.depth.clone()
    measured[1] = 0
    study = dataclasses.replace(exact.study, depth=measured)
    depth, maps = truth(exact.study, [0, 1])
    factor, known = scale_to_measured(2 * depth, study.depth[[0, 1]])
    assert known.tolist() == [True, False]
    assert abs(float(factor[0]) - 0.5) < 1e-3
    assert len(context_splats(study, [0, 1], depth, maps)) == 72 * 96
