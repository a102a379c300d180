"""Loss terms of the small network, each with the equation it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.errors import InputError
from flarecli.model.small_output import PointMaps, SmallOutput
from flarecli.model.small_pose import rotations
from flarecli.train.primitives import Draw
from flarecli.train.targets import Matches, Targets, centre_pixels, find_matches

_DECAY = 0.8
_HUBER = 0.02
_CONFIDENCE = 0.2


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms; see the functions of the same names. A term of weight 0 is not computed.

    Attributes:
        pose: rotation and translation of both stages.
        focal: log focal length of both stages.
        points: camera-centric and global points, each.
        match: token correspondences at encoder and decoder level, each.
        descriptor: dense correspondences.
        local: further factor on what stage 2 is taught, its refined pose and camera-centric points.
        samples: pixels per view whose dense correspondence is scored.
        render: colours of rendered Gaussians, squared; the three of the rendering count in phases that train them.
        render_detail: their structure.
        render_depth: their depth.
    """

    pose: float = 1.0
    focal: float = 1.0
    points: float = 0.5
    match: float = 0.3
    descriptor: float = 0.15
    local: float = 1.0
    samples: int = 64
    render: float = 1.0
    render_detail: float = 0.05
    render_depth: float = 0.02


def compute_losses(out: SmallOutput, targets: Targets, weights: LossWeights, draw: Draw) -> dict[str, Tensor]:
    """All weighted terms of a batch by name; their sum is what is minimised.

    Raises:
        InputError: every term that these stages allow has weight 0.
    """
    refined = out.refined if weights.local else []
    terms = {}
    if weights.pose:
        terms["pose_coarse"] = weights.pose * pose_loss(out.coarse, targets)
    if weights.focal:
        terms["focal"] = weights.focal * focal_loss([*out.coarse, *refined], targets)
    if weights.match:
        terms |= token_match_losses(out, targets, weights.match)
    if weights.descriptor:
        terms["descriptor"] = weights.descriptor * descriptor_loss(out, targets, weights.samples, draw)
    if weights.pose and refined:
        terms["pose_refined"] = weights.local * weights.pose * pose_loss(refined, targets)
    if weights.points and weights.local and out.local is not None:
        terms["local"] = weights.local * weights.points * point_loss(out.local, targets.local, targets.valid)
    if weights.points and out.world is not None:
        terms["global"] = weights.points * point_loss(out.world, targets.world, targets.valid)
    if not terms:
        raise InputError("nothing is left to train: all losses of the phase have weight 0", "raise one of [weights]")
    return terms


def _huber(error: Tensor) -> Tensor:
    return functional.huber_loss(error, torch.zeros_like(error), delta=_HUBER) / _HUBER


def pose_loss(iterations: list[Tensor], targets: Targets) -> Tensor:
    """Huber loss on unit quaternions and raw translations of the source views, later iterations weighing more.

    With three or more views the relative rotations of all pairs are compared as well. The predicted translation is not
    normalised: its direction would have gradients of order 1/|t|.

    Source: FLARE, arXiv 2502.12138, training loss, pose term (Huber); iterations weigh 0.8^(last - i).
    """
    total = targets.direction.new_zeros(())
    for i, raw in enumerate(iterations):
        quats = functional.normalize(raw[:, 1:, 3:7], dim=-1)
        sign = (quats * targets.quats_wxyz[:, 1:]).sum(-1, keepdim=True).detach()
        term = 5.0 * _huber(torch.where(sign < 0, -quats, quats) - targets.quats_wxyz[:, 1:])
        term = term + 2.5 * _huber(raw[:, 1:, :3] - targets.direction[:, 1:])
        if raw.shape[1] > 2:
            term = term + 2.5 * _huber(_pairwise(rotations(raw[..., 3:7])) - _pairwise(targets.rotation))
        total = total + _DECAY ** (len(iterations) - 1 - i) * term
    return total


def _pairwise(rotation: Tensor) -> Tensor:
    return rotation.transpose(-1, -2)[:, :, None] @ rotation[:, None]


def focal_loss(iterations: list[Tensor], targets: Targets) -> Tensor:
    """Mean absolute error of the logarithm of the focal length over all views and iterations."""
    return torch.stack([(raw[..., 7] - targets.log_focal).abs().mean() for raw in iterations]).mean()


def point_loss(maps: PointMaps, truth: Tensor, valid: Tensor) -> Tensor:
    """Confidence-weighted distance of point maps that are each divided by their mean distance from the origin.

    Source: DUSt3R, arXiv 2312.14132, eq. 3 (scales over all views together) and eq. 4 (alpha = 0.2).
    """
    error = (maps.points / _scale(maps.points, valid) - truth / _scale(truth, valid)).norm(dim=-1)
    scored = maps.confidence * error - _CONFIDENCE * maps.confidence.log()
    return (scored * valid).sum() / valid.sum().clamp_min(1)


def _scale(points: Tensor, valid: Tensor) -> Tensor:
    distance = (points.norm(dim=-1) * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp_min(1)
    return distance.clamp_min(1e-3)[:, None, None, None, None]


def token_match_losses(out: SmallOutput, targets: Targets, weight: float) -> dict[str, Tensor]:
    """InfoNCE of token correspondences between all ordered pairs of views.

    The positive is the exact location, spread bilinearly over the nearest tokens; all tokens of the other view compete.

    Source: van den Oord et al., CPC, arXiv 1807.03748, eq. 4; correspondence form of MASt3R, arXiv 2406.09756, eq. 11.
    """
    batch, views, count = out.token_descriptors.shape[:3]
    height, width = targets.valid.shape[-2:]
    stride = round((height * width / count) ** 0.5)
    source, target = ordered_pairs(batch, views, targets.valid.device)
    pixels = centre_pixels(height, width, stride, source.device).expand(batch, source.shape[1], -1)
    matches = find_matches(targets, source, target, pixels, stride)
    rows = torch.arange(batch, device=source.device)[:, None]
    encoder = out.match_logits[rows, source, target]
    described = out.token_descriptors
    decoder = (described[rows, source] * out.token_temperature) @ described[rows, target].transpose(-1, -2)
    return {
        "match_encoder": weight * info_nce(encoder, matches),
        "match_decoder": weight * info_nce(decoder, matches),
    }


def descriptor_loss(out: SmallOutput, targets: Targets, samples: int, draw: Draw) -> Tensor:
    """InfoNCE of dense descriptors: random cells of each view against all cells of the next view (and back).

    Source: as :func:`token_match_losses`.
    """
    batch, views, _, rows_out, columns_out = out.descriptors.shape
    device, (height, width) = out.descriptors.device, targets.valid.shape[-2:]
    stride = height // rows_out
    source = torch.arange(views, device=device).expand(batch, views)
    target = (source + 1) % views
    cells = torch.randint(
        rows_out * columns_out, (batch, views, samples), generator=draw.generator, device=draw.device
    ).to(device)
    centres = centre_pixels(height, width, stride, device)
    matches = find_matches(targets, source, target, centres[cells], stride)
    dense = out.descriptors.flatten(3).transpose(2, 3)
    anchors = dense.gather(2, cells[..., None].expand(-1, -1, -1, dense.shape[-1]))
    # The few anchors are scaled, not their many products.
    logits = (anchors * out.descriptor_temperature) @ dense.roll(-1, 1).transpose(-1, -2)
    return info_nce(logits, matches)


def info_nce(logits: Tensor, matches: Matches) -> Tensor:
    """Mean cross entropy of the softmax over the last axis (cells) against the matches' weights, over visible rows."""
    logits = logits.float()
    expected = (matches.weights * logits.gather(-1, matches.cells)).sum(-1)
    entropy = matches.weights.sum(-1) * logits.logsumexp(-1) - expected
    return (entropy * matches.visible).sum() / matches.visible.sum().clamp_min(1)


def ordered_pairs(batch: int, views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Source and target index (B, V(V-1)) of all ordered pairs of different views."""
    pairs = torch.tensor([(i, j) for i in range(views) for j in range(views) if i != j], device=device)
    return pairs[:, 0].expand(batch, -1), pairs[:, 1].expand(batch, -1)
