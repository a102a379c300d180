"""What the network is taught by photos alone: one step with context and target views.

    context views ── network ──┬── depth, Gaussians ── rendered at the targets' cameras ── target photos
                               ├── points ── projected into predicted cameras ── their own pixels
                               ├── depth ── projected into solved cameras of other views ── matched pixels
                               └── poses, focal lengths, points, descriptors ── what the solved cameras say of them

As in SPFSplat the Gaussians know nothing of the targets, while the cameras of the targets come from all views together;
here the solver of matches gives them, which is far more accurate than the pose head of a small network.

Source: SPFSplat, arXiv 2508.01171, section 3.2 (context and target branches) and 3.3 (losses).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.adapt.gaussians import context_splats, scale_to_measured, show_view
from flarecli.adapt.study import Study
from flarecli.appearance.fit import photometric_loss
from flarecli.model.small_output import PointMaps, SmallOutput
from flarecli.model.small_pose import pose_matrices
from flarecli.train.losses import LossWeights, compute_losses, ordered_pairs
from flarecli.train.primitives import Draw
from flarecli.train.reprojection import matched_reprojection_loss, reprojection_loss
from flarecli.train.targets import Targets, centre_pixels, find_matches, make_targets

_RENDER_STRIDE = 2  # a Gaussian stands for so many rows and columns, which takes a third of the time
_MATCH_STRIDE = 4  # every so many pixels of each row and column is matched


@dataclass(frozen=True, slots=True)
class ObjectiveWeights:
    """Weights of the terms; one of weight 0 is not computed.

    Attributes:
        render: rendered targets against their photos.
        own_pixels: reprojection of points into predicted cameras.
        matched_pixels: reprojection of depth into solved cameras of other views.
        solved: what solved cameras and measured depth say, with the weights of ordinary training.
    """

    render: float = 3.0
    own_pixels: float = 1.0
    matched_pixels: float = 10.0
    solved: LossWeights | None = field(
        default_factory=lambda: LossWeights(pose=0.5, points=0.0, match=0.4, descriptor=0.8, samples=192)
    )


def objective(
    out: SmallOutput,
    study: Study,
    context: Sequence[int],
    targets: Sequence[int],
    weights: ObjectiveWeights,
    draw: Draw,
) -> dict[str, Tensor]:
    """Weighted terms of one step by name.

    Args:
        out: of the network for the context views alone, all stages, with Gaussians.
        study: photos and cameras, at the size of the prediction.
        context: two or more views, the first is the reference.
        targets: other views.
        weights: of the terms.
        draw: random source on the same device.
    """
    assert out.local is not None and out.world is not None  # all stages were run
    batch = study.batch(context)
    truth = make_targets(batch)
    terms = {} if weights.solved is None else compute_losses(out, truth, weights.solved, draw)
    depth = out.local.points[0, ..., 2]
    if weights.own_pixels:
        focal = out.refined[-1][..., 7].exp()
        use = study.use[list(context)][None]
        own = reprojection_loss(out.world.points, scaled_cameras(out), focal, batch.portrait, use)
        terms["own_pixels"] = weights.own_pixels * own
    if weights.matched_pixels:
        terms["matched_pixels"] = weights.matched_pixels * _matched(depth[None], truth, study.size_hw)
    if weights.render and targets:
        assert out.gaussians is not None  # asked of the network by the caller
        maps = out.gaussians.map(lambda each: each[0])
        splats = context_splats(study, context, depth, maps, stride=_RENDER_STRIDE)
        losses = []
        for view in targets:
            shown, rgb, use = show_view(splats, study, view)
            losses.append(photometric_loss(shown.color[0], rgb, use))
        terms["render"] = weights.render * torch.stack(losses).mean()
    return terms


def scaled_cameras(out: SmallOutput) -> Float[Tensor, "B V 4 4"]:
    """Predicted cameras with translations in the unit of the world points, which the pose head does not know.

    The unit of each camera solves world = a R local + b t for a and b in the least squares over the pixels; b has no
    gradient.
    """
    assert out.local is not None and out.world is not None  # all stages were run
    c2w = pose_matrices(out.refined[-1])
    with torch.no_grad():
        unit = _translation_units(c2w, out.local, out.world)
    moved = c2w.clone()
    moved[..., :3, 3] = c2w[..., :3, 3] * unit[..., None]
    return moved


def _translation_units(c2w: Tensor, local: PointMaps, world: PointMaps) -> Float[Tensor, "B V"]:
    turned = torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], local.points).flatten(2).double()
    wanted = world.points.flatten(2).double()
    shift = c2w[..., :3, 3].double()
    along = shift[:, :, None].expand(-1, -1, turned.shape[2] // 3, -1).flatten(2)
    aa, ab, bb = (turned**2).sum(2), (turned * along).sum(2), (along**2).sum(2)
    ax, bx = (turned * wanted).sum(2), (along * wanted).sum(2)
    determinant = aa * bb - ab**2
    # The reference has no translation; a unit of one leaves it where it is.
    solved = torch.where(determinant > 1e-9 * aa.clamp_min(1e-12), (aa * bx - ab * ax) / determinant, 1.0)
    return solved.clamp_min(1e-6).float()


def _matched(depth: Float[Tensor, "1 V H W"], truth: Targets, size_hw: tuple[int, int]) -> Tensor:
    """Predicted depth of every view, projected into the solved cameras of all others, against measured places."""
    views, (height, width) = depth.shape[1], size_hw
    device = depth.device
    source, target = ordered_pairs(1, views, device)
    pixels, pairs = centre_pixels(height, width, _MATCH_STRIDE, device), source.shape[1]
    matches = find_matches(truth, source, target, pixels.expand(1, pairs, -1), _MATCH_STRIDE)
    factor, known = scale_to_measured(depth[0], truth.local[0, ..., 2] * truth.valid[0])
    ratio = (depth * factor[:, None, None]) / truth.local[..., 2].clamp_min(1e-6)
    scaled = (truth.local * ratio[..., None]).flatten(2, 3)[:, :, pixels]
    world = torch.einsum("bvij,bvnj->bvni", truth.rotation, scaled) + truth.translation[:, :, None]
    weight = matches.visible.float() * known[source][..., None]
    c2w = torch.eye(4, device=device).repeat(1, pairs, 1, 1)
    c2w[..., :3, :3], c2w[..., :3, 3] = truth.rotation[:, target[0]], truth.translation[:, target[0]]
    focal, portrait = truth.log_focal[:, target[0]].exp(), truth.portrait[:, target[0]]
    return matched_reprojection_loss(world[:, source[0]], c2w, focal, portrait, matches.location, weight, size_hw)
