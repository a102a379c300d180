"""Fitting Gaussians to photos by gradient descent: the loop, without any opinion about files.

Loss and parametrisation follow Kerbl et al. 2023, 3D Gaussian Splatting, section 5 (0.8 L1 + 0.2 (1 - SSIM), logarithms
of scales, logits of opacities). Cameras may move a little and every photo has its own gain and offset of the colours;
both stand for errors of the photos, so they are thrown away in the end and the Gaussians stay in the scene's frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flarecli.appearance.photos import View, show
from flarecli.appearance.poses import moved_cameras
from flarecli.render.quality import psnr, ssim
from flarecli.render.rasterize import render
from flarecli.render.splats import Splats

_SSIM_SHARE = 0.2
_SHORT_RUN = 300  # steps
_FINAL_RATE = 0.05  # of the first one, reached exponentially at the last step
_MIN_EXPOSURE_PIXELS, _MAX_GAIN = 100, 1.0
_KEEP_CAMERAS, _KEEP_EXPOSURE = 1.0, 0.1


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What a fit does.

    Attributes:
        steps: gradient steps, each on one photo.
        sh_degree: degree of the colours, 0 to 3; coefficients that the start lacks begin at zero.
        move_cameras: let the cameras of the photos move.
        adapt_exposure: let every photo have its own gain and offset of the colours.
        densify: clone, split and prune Gaussians as gsplat's default strategy does.
        checks: how often within the run the held-out photos are looked at.
        seed: of the order of the photos.
        rates: learning rates at the first step; of ``means`` per unit of the scene's typical depth, for runs of up to
            300 steps: longer ones start as much slower as they are longer, so that Gaussians travel alike far.
    """

    steps: int = 300
    sh_degree: int = 0
    move_cameras: bool = True
    adapt_exposure: bool = True
    densify: bool = False
    checks: int = 10
    seed: int = 0
    rates: dict[str, float] = field(
        default_factory=lambda: {
            "means": 4e-3,
            "scales": 1e-2,
            "quats": 2e-3,
            "opacities": 5e-2,
            "sh0": 1e-2,
            "shN": 5e-4,
            "cameras": 1e-4,
            "exposure": 1e-3,
        }
    )


@dataclass
class FitState:
    """A fit in progress: everything that a later process needs to go on.

    Attributes:
        step: steps that are done.
        params: parameters of the Gaussians by name, then ``cameras`` (V, 6) and ``exposure`` (V, 2, 3).
        optimizers: one Adam per parameter.
        best_step: the step after which the held-out photos looked best.
        best: the Gaussians at that step.
        history: (step, mean PSNR in dB of the held-out photos) at every check.
        strategy: state of the densification.
        reach: typical depth of the scene at the start, the unit of motions; 0 before the first step.
    """

    step: int
    params: dict[str, torch.nn.Parameter]
    optimizers: dict[str, torch.optim.Optimizer]
    best_step: int
    best: Splats
    history: list[tuple[int, float]]
    strategy: dict[str, Any]
    reach: float = 0.0


GAUSSIAN_PARAMS = ("means", "scales", "quats", "opacities", "sh0", "shN")


def start_fit(splats: Splats, num_views: int, options: FitOptions) -> FitState:
    """The state before the first step."""
    wanted = (options.sh_degree + 1) ** 2
    sh = torch.zeros(len(splats), max(wanted, splats.sh.shape[1]), 3, device=splats.sh.device)
    sh[:, : splats.sh.shape[1]] = splats.sh
    values = {
        "means": splats.means,
        "scales": splats.scales.log(),
        "quats": splats.quats_wxyz,
        "opacities": torch.logit(splats.opacities.clamp(1e-4, 1 - 1e-4)),
        "sh0": sh[:, :1],
        "shN": sh[:, 1:],
        "cameras": torch.zeros(num_views, 6, device=sh.device),
        "exposure": torch.zeros(num_views, 2, 3, device=sh.device),
    }
    params = {name: torch.nn.Parameter(value.detach().clone()) for name, value in values.items()}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([param], lr=options.rates[name], eps=1e-15) for name, param in params.items()
    }
    return FitState(0, params, optimizers, 0, current_splats(params), [], {})


def current_splats(params: dict[str, torch.nn.Parameter]) -> Splats:
    """The Gaussians that the parameters stand for, detached from nothing."""
    sh = torch.cat([params["sh0"], params["shN"]], 1)
    return Splats(params["means"], params["scales"].exp(), params["quats"], params["opacities"].sigmoid(), sh)


def fit(
    state: FitState,
    views: Sequence[View],
    held_out: Sequence[View],
    options: FitOptions,
    *,
    stop_at: int | None = None,
    deadline: float = math.inf,
    on_step: Callable[[FitState], None] | None = None,
) -> FitState:
    """Run steps until ``stop_at`` (all of them by default) or the deadline; the state is changed and returned.

    Args:
        state: from :func:`start_fit`, or an earlier one.
        views: photos to fit.
        held_out: photos that choose the best step; without any, the last step is the best.
        options: the schedule depends on ``options.steps``, also where ``stop_at`` ends it earlier.
        stop_at: last step.
        deadline: value of time.monotonic() after which no step starts.
        on_step: called after every step.
    """
    stop_at = options.steps if stop_at is None else stop_at
    state.reach = state.reach or typical_depth(current_splats(state.params), views)
    if options.adapt_exposure and state.step == 0:
        _first_exposure(state, views)
    grow = _Densifier(options, state.reach) if options.densify else None
    every = max(1, options.steps // max(options.checks, 1))
    if held_out and not state.history:
        _check(state, held_out)
    while state.step < stop_at and time.monotonic() < deadline:
        _step(state, views, options, grow)
        state.step += 1
        if held_out and (state.step % every == 0 or state.step == stop_at):
            _check(state, held_out)
        if on_step:
            on_step(state)
    if held_out and state.history[-1][0] != state.step:
        _check(state, held_out)
    if not held_out:
        state.best_step, state.best = state.step, _detached(current_splats(state.params))
    return state


@torch.no_grad()
def _first_exposure(state: FitState, views: Sequence[View]) -> None:
    """Start every photo's gain at how much brighter it is than the Gaussians, which mix the colours of all photos.

    Gradient descent alone is too slow: the colours of the Gaussians would follow the odd photo first.
    """
    splats = current_splats(state.params)
    for index, view in enumerate(views):
        rendered = show(splats, view)
        counts = (view.weight * (rendered.alpha[0] > 0.5))[..., None]
        if counts.sum() < _MIN_EXPOSURE_PIXELS:
            continue
        photo, picture = ((each * counts).sum((0, 1)).clamp_min(1e-6) for each in (view.rgb, rendered.color[0]))
        state.params["exposure"][index, 0] = (photo / picture).log().clamp(-_MAX_GAIN, _MAX_GAIN)


def mean_psnr(splats: Splats, views: Sequence[View]) -> float:
    """Mean PSNR in dB of the photos from their own cameras."""
    with torch.no_grad():
        return sum(psnr(show(splats, view).color[0], view.rgb, view.weight) for view in views) / len(views)


def typical_depth(splats: Splats, views: Sequence[View]) -> float:
    """Median depth of the Gaussians before the cameras, in world units."""
    with torch.no_grad():
        depth = torch.cat([splats.means @ view.w2c[2, :3] + view.w2c[2, 3] for view in views])
        front = depth[depth > 0]
    return float(front.median()) if len(front) else 1.0


def _check(state: FitState, held_out: Sequence[View]) -> None:
    now = _detached(current_splats(state.params))
    score = mean_psnr(now, held_out)
    if not state.history or score > max(each for _, each in state.history):
        state.best_step, state.best = state.step, now
    state.history.append((state.step, score))


def _detached(splats: Splats) -> Splats:
    parts = (splats.means, splats.scales, splats.quats_wxyz, splats.opacities, splats.sh)
    return Splats(*(each.detach().clone() for each in parts))


def _step(state: FitState, views: Sequence[View], options: FitOptions, grow: _Densifier | None) -> None:
    index = _photo_of_step(state.step, len(views), options.seed)
    view, params, reach = views[index], state.params, state.reach
    decay = _FINAL_RATE ** (state.step / max(options.steps, 1))
    for name, optimizer in state.optimizers.items():
        unit = reach * min(1.0, _SHORT_RUN / options.steps) if name == "means" else 1.0
        optimizer.param_groups[0]["lr"] = options.rates[name] * decay * unit
    if options.move_cameras:
        view = replace(view, w2c=moved_cameras(view.w2c[None], params["cameras"][index : index + 1], reach)[0])
    rendered = render(current_splats(params), view.w2c[None], view.K[None], view.size_hw)
    if grow:
        grow.before_backward(state, rendered.info)
    color = rendered.color[0]
    if options.adapt_exposure:
        # Relative to the median photo, so that the Gaussians keep the exposure that most photos have.
        own = params["exposure"][index] - params["exposure"].median(0).values
        color = color * own[0].exp() + own[1]
    loss = photometric_loss(color, view.rgb, view.weight)
    loss = (
        loss + _KEEP_CAMERAS * params["cameras"].square().mean() + _KEEP_EXPOSURE * params["exposure"].square().mean()
    )
    loss.backward()
    for optimizer in state.optimizers.values():
        optimizer.step()
    if grow:
        grow.after_backward(state, rendered.info)
    for optimizer in state.optimizers.values():
        optimizer.zero_grad(set_to_none=True)


def photometric_loss(color: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """0.8 mean absolute error + 0.2 (1 - SSIM) over the pixels that count."""
    absolute = ((color - truth).abs().mean(-1) * weight).sum() / weight.sum().clamp_min(1)
    return (1 - _SSIM_SHARE) * absolute + _SSIM_SHARE * (1 - ssim(color, truth, weight))


def _photo_of_step(step: int, num_views: int, seed: int) -> int:
    """Every photo once per round, in a new order each round; a function of the step alone, so a resumed fit goes on."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step // num_views)
    return int(torch.randperm(num_views, generator=generator)[step % num_views])


class _Densifier:
    """gsplat's default strategy, with its intervals shrunk to the length of the run."""

    def __init__(self, options: FitOptions, reach: float) -> None:
        from gsplat import DefaultStrategy

        self.strategy = DefaultStrategy(
            refine_start_iter=options.steps // 20,
            refine_stop_iter=options.steps // 2,
            refine_every=max(options.steps // 50, 10),
            # Resetting opacities pays in runs of many thousand steps only.
            reset_every=10 * options.steps,
            verbose=False,
        )
        self.reach = reach

    def before_backward(self, state: FitState, info: dict[str, Any]) -> None:
        if not state.strategy:
            state.strategy.update(self.strategy.initialize_state(scene_scale=self.reach))
        params, optimizers = self._gaussians(state)
        self.strategy.step_pre_backward(params, optimizers, state.strategy, state.step, info)

    def after_backward(self, state: FitState, info: dict[str, Any]) -> None:
        params, optimizers = self._gaussians(state)
        self.strategy.step_post_backward(params, optimizers, state.strategy, state.step, info, packed=False)
        state.params.update(params)

    def _gaussians(self, state: FitState) -> tuple[dict[str, Any], dict[str, Any]]:
        return ({n: state.params[n] for n in GAUSSIAN_PARAMS}, {n: state.optimizers[n] for n in GAUSSIAN_PARAMS})
