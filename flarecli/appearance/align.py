"""Moving a camera to where Gaussians look most like its photo.

The pictures are judged by NoPoSplat's evaluation-time loss: mean squared error plus one minus the structure term of
SSIM. Its gradient descent takes 200 renderings forwards and backwards; here Gauss-Newton steps on the squared error of
blurred pictures propose the cameras, whose derivatives come from the rendered depth, so that a dozen renderings
forwards are enough. What the loss does not prefer to the camera at the start is never returned.

Source: Ye et al., NoPoSplat, arXiv 2410.24207, section 3.3 (evaluation-time pose estimation; its LPIPS term needs
weights that can't be shipped and is left out); Baker and Matthews 2004, Lucas-Kanade 20 Years On, section 2; Benhimane
and Malis 2004, Real-time image-based tracking of planes using efficient second-order minimization, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flarecli.appearance.photos import View, show
from flarecli.appearance.poses import moved_cameras
from flarecli.render.quality import structure
from flarecli.render.splats import Splats

_BLURS = (1 / 42, 1 / 128, 1 / 360)
"""Standard deviations over the long side: the first reaches errors of a tenth of the picture, the last is exact."""

_STEPS_PER_BLUR, _TRIES_PER_STEP = 5, 3
_ENOUGH = 1e-3  # relative gain of a step below which a blur is done
_FIRST_DAMPING, _LEAST_DAMPING, _RETRY_DAMPING = 1e-3, 1e-4, 1e-1


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A photo's camera after the alignment, and the loss before and after it."""

    view: View
    loss_before: float
    loss_after: float


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    """One camera that was tried: its matrix, picture, z-depth, accumulated opacity, and loss."""

    w2c: Tensor
    color: Float[Tensor, "H W 3"]
    depth: Float[Tensor, "H W"]
    alpha: Float[Tensor, "H W"]
    loss: float


@torch.no_grad()
def align_camera(splats: Splats, view: View) -> Aligned:
    """The camera, at most some ten degrees away, under which the Gaussians look most like the photo.

    Args:
        splats: Gaussians; they stay where they are.
        view: photo of at least 11 pixels a side with the camera to start from; masked-out pixels don't count.
    """
    start = best = _shoot(splats, view, view.w2c)
    reach = _reach(start)
    now = start
    for blur in _BLURS:
        sigma = blur * max(view.size_hw)
        photo = _blurred(view.rgb, sigma)
        now, found = _descend(splats, view, now, (photo, sigma), reach)
        best = min([best, *found], key=lambda shot: shot.loss)
    return Aligned(replace(view, w2c=best.w2c), start.loss, best.loss)


def _reach(shot: _Shot) -> float:
    """Median depth of what the picture shows, the unit of translations; 1 where it shows nothing."""
    depth = shot.depth[shot.alpha > 0.5]
    return float(depth.median()) if len(depth) else 1.0


def _shoot(splats: Splats, view: View, w2c: Tensor) -> _Shot:
    rendered = show(splats, replace(view, w2c=w2c))
    color = rendered.color[0]
    loss = _squared_error(color, view.rgb, view.weight) + 1 - float(structure(color, view.rgb, view.weight))
    return _Shot(w2c, color, rendered.depth[0], rendered.alpha[0], loss)


def _descend(
    splats: Splats, view: View, now: _Shot, target: tuple[Tensor, float], reach: float
) -> tuple[_Shot, list[_Shot]]:
    """Damped Gauss-Newton steps at one blur; returns the last camera and all that were tried."""
    photo, sigma = target
    tried, damping = [], _FIRST_DAMPING
    picture = _blurred(now.color, sigma)
    error = _squared_error(picture, photo, view.weight)
    for _ in range(_STEPS_PER_BLUR):
        matrix, slope = _normal_equations(picture, photo, now, view, reach)
        for _ in range(_TRIES_PER_STEP):
            damped = matrix + torch.diag(damping * matrix.diagonal() + 1e-12)
            move = -torch.linalg.solve(damped, slope).to(view.w2c)
            shot = _shoot(splats, view, moved_cameras(now.w2c[None], move[None], reach)[0])
            tried.append(shot)
            new_picture = _blurred(shot.color, sigma)
            new_error = _squared_error(new_picture, photo, view.weight)
            if new_error < error:
                break
            damping = max(damping, _RETRY_DAMPING / 10) * 10
        else:
            return now, tried
        gain, now, picture, error = 1 - new_error / error, shot, new_picture, new_error
        damping = max(damping / 10, _LEAST_DAMPING)
        if gain < _ENOUGH:
            break
    return now, tried


def _normal_equations(picture: Tensor, photo: Tensor, shot: _Shot, view: View, reach: float) -> tuple[Tensor, Tensor]:
    """Gauss-Newton matrix (6 6) and gradient (6) of the squared error for the motions of ``moved_cameras``, float64.

    The picture moves with the points that it shows. Its slopes are averaged with the photo's, which lets a step see as
    far as one of second order.
    """
    slope_x, slope_y = ((a + b) / 2 for a, b in zip(_slopes(picture), _slopes(photo), strict=True))
    flow_x, flow_y = _pixel_flow(shot, view, reach)
    # What appears at a fixed pixel changes against the motion of the points.
    change = -(slope_x[..., None] * flow_x[:, :, None] + slope_y[..., None] * flow_y[:, :, None]).flatten(0, 2).double()
    counts = (view.weight * (shot.alpha > 0.5))[..., None].expand_as(picture).flatten().double()
    weighted = change * counts[:, None]
    return weighted.T @ change, weighted.T @ (picture - photo).flatten().double()


def _pixel_flow(shot: _Shot, view: View, reach: float) -> tuple[Float[Tensor, "H W 6"], Float[Tensor, "H W 6"]]:
    """Pixels by which the point of every pixel moves per unit of the six numbers of ``moved_cameras``."""
    height, width = view.size_hw
    fx, fy, cx, cy = (float(view.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    rows = torch.arange(height, device=view.K.device) + 0.5
    columns = torch.arange(width, device=view.K.device) + 0.5
    y, x = torch.meshgrid((rows - cy) / fy, (columns - cx) / fx, indexing="ij")
    near = torch.where(shot.alpha > 0.5, reach / shot.depth.clamp_min(1e-6 * reach), 0)
    nothing = torch.zeros_like(x)
    flow_x = torch.stack([-x * y, 1 + x * x, -y, near, nothing, -x * near], -1)
    flow_y = torch.stack([-1 - y * y, x * y, x, nothing, near, -y * near], -1)
    return fx * flow_x, fy * flow_y


def _squared_error(picture: Tensor, photo: Tensor, weight: Tensor) -> float:
    return float(((picture - photo).square().mean(-1) * weight).sum() / weight.sum().clamp_min(1))


def _slopes(picture: Float[Tensor, "H W 3"]) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W 3"]]:
    """Central differences along x and y."""
    padded = functional.pad(picture.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0].permute(1, 2, 0)
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


def _blurred(picture: Float[Tensor, "H W 3"], sigma: float) -> Float[Tensor, "H W 3"]:
    half = min(round(3 * sigma), min(picture.shape[:2]) - 1)
    if half < 1:
        return picture
    at = torch.arange(-half, half + 1, device=picture.device, dtype=picture.dtype)
    window = torch.exp(-(at**2) / (2 * sigma**2))
    window = window / window.sum()
    maps = functional.pad(picture.permute(2, 0, 1)[:, None], (half, half, half, half), mode="replicate")
    rows = functional.conv2d(maps, window[None, None, :, None])
    return functional.conv2d(rows, window[None, None, None])[:, 0].permute(1, 2, 0)
