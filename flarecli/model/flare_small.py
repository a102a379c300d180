"""The small network: FLARE's cascade (coarse pose, camera-centric points with a refined pose, global points).

Against the published network it alternates attention within and across views with the camera token in the sequence,
gives stage 1 an explicit match prior, and returns dense descriptors trained for matching.

    rgb ── stem ── encoder ──┬── match prior ──┐
                             ├──────────────── stage 1 ── coarse pose, token and dense descriptors
                             ├──────────────── stage 2 ── refined pose, camera-centric points
                             └──────────────── stage 3 ── global points

Source: FLARE, arXiv 2502.12138, section 3 (cascade); VGGT, arXiv 2503.11651, section 3.2 (alternating attention).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.layers import EncBlock, Mlp, Rotary, rotary
from flarecli.model.small_parts import (
    POSE_NUMBERS,
    DenseHead,
    MatchPrior,
    PointHead,
    PoseHead,
    Stem,
    initial_pose,
    position_features,
)
from flarecli.scene.views import Prediction, Views

MAX_VIEWS = 8
_NOISE = {"local": (5.0, 0.1), "global": (3.0, 0.1)}
_NOISY_SHARE = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class PointMaps:
    """Points (B, V, H, W, 3) and their confidence (B, V, H, W) > 1, landscape storage."""

    points: Float[Tensor, "B V H W 3"]
    confidence: Float[Tensor, "B V H W"]


@dataclass(frozen=True, slots=True, eq=False)
class SmallOutput:
    """Everything the losses look at; fields of stages that were not run are empty or None.

    Attributes:
        coarse: raw poses of each iteration of stage 1: translation, quaternion wxyz of any length, log focal/long side.
        refined: the same for stage 2.
        match_logits: encoder-level logits of token n of view i over tokens of view j, [b, i, j, n, :].
        token_descriptors: unit token descriptors of stage 1.
        token_temperature: factor that turns their products into logits.
        descriptors: unit dense descriptors at the stride of the dense heads.
        descriptor_temperature: the same factor for them.
        local: camera-centric points.
        world: points in the frame of view 0.
    """

    coarse: list[Float[Tensor, "B V 8"]]
    refined: list[Float[Tensor, "B V 8"]]
    match_logits: Float[Tensor, "B V V N N"]
    token_descriptors: Float[Tensor, "B V N C"]
    token_temperature: Float[Tensor, ""]
    descriptors: Float[Tensor, "B V D h w"]
    descriptor_temperature: Float[Tensor, ""]
    local: PointMaps | None
    world: PointMaps | None


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Where the tokens of a batch are."""

    shape: tuple[int, int, int, int]
    portrait: Bool[Tensor, "BV"]
    positions: Float[Tensor, "B V N 2"]
    rays: Float[Tensor, "B V H W 2"]
    span: float

    def rope(self, head_width: int, camera: bool, across: bool) -> Rotary:
        """Rotary tables per view or across all views; a camera token sits in the image centre."""
        positions = self.positions * (self.span / 2)
        if camera:
            positions = functional.pad(positions, (0, 0, 1, 0))
        tables = rotary(positions.flatten(1, 2) if across else positions.flatten(0, 1), head_width)
        device = positions.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            return Rotary(tables.cos.to(dtype), tables.sin.to(dtype))
        return tables


class Stage(nn.Module):
    """Pairs of a block within each view and a block across all views; token 0 of each view is its camera."""

    def __init__(self, config: FlareSmallConfig, pairs: int) -> None:
        super().__init__()
        heads = config.width // config.head_width
        self.head_width = config.head_width
        self.within = nn.ModuleList(EncBlock(config.width, heads) for _ in range(pairs))
        self.across = nn.ModuleList(EncBlock(config.width, heads) for _ in range(pairs))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, cameras: Float[Tensor, "B V C"], tokens: Float[Tensor, "B V N C"], grid: _Grid
    ) -> tuple[Float[Tensor, "B V C"], Float[Tensor, "B V N C"]]:
        """Updated and normalised camera and image tokens."""
        x = torch.cat([cameras[:, :, None].to(tokens.dtype), tokens], 2)
        batch, views, count, _ = x.shape
        view_rope, scene_rope = grid.rope(self.head_width, True, False), grid.rope(self.head_width, True, True)
        for within, across in zip(self.within, self.across, strict=True):
            x = within(x.flatten(0, 1), view_rope).view(batch, views * count, -1)
            x = across(x, scene_rope).view(batch, views, count, -1)
        x = self.norm(x)
        return x[:, :, 0], x[:, :, 1:]


class FlareSmall(nn.Module):
    """See the module's text.

    Args:
        config: sizes; rows are in ``flarecli.model.config_small.SIZES``.
        pose_noise: factor on the noise between the stages in training.
    """

    def __init__(self, config: FlareSmallConfig, pose_noise: float = 1.0) -> None:
        super().__init__()
        self.config, self.pose_noise = config, pose_noise
        width, encoder = config.width, config.encoder_width
        self.stem = Stem(config)
        self.encoder = nn.ModuleList(
            EncBlock(encoder, encoder // config.head_width) for _ in range(config.encoder_depth)
        )
        self.encoder_norm = nn.LayerNorm(encoder)
        self.prior = MatchPrior(config)
        self.enter = nn.ModuleList(nn.Linear(encoder, width) for _ in range(3))
        self.camera = nn.Parameter(torch.randn(2, width) * 0.02)
        self.tag = nn.Parameter(torch.randn(2, width) * 0.02)
        self.stage1 = Stage(config, config.coarse_pairs)
        self.stage2 = Stage(config, config.local_pairs)
        self.stage3 = Stage(config, config.global_pairs)
        self.pool = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.pose1, self.pose2 = PoseHead(config), PoseHead(config)
        self.condition = nn.ModuleList(Mlp(POSE_NUMBERS, width, width) for _ in range(2))
        self.describe_tokens = nn.Linear(width, config.match_width)
        self.describe = DenseHead(config, config.descriptor_width)
        self.log_temperatures = nn.Parameter(torch.tensor([2.6, 2.6]))
        self.local_points, self.global_points = PointHead(config), PointHead(config)
        self.baseline = nn.Linear(width, 1)
        nn.init.zeros_(self.baseline.weight)
        nn.init.zeros_(self.baseline.bias)

    def forward(self, rgb: Float[Tensor, "B V 3 H W"], portrait: Bool[Tensor, "*B V"], stages: int = 3) -> SmallOutput:
        """Run the cascade.

        Args:
            rgb: colours in [0, 1], landscape storage; H and W are multiples of the patch. View 0 is the reference.
            portrait: views stored transposed, per scene or the same for all scenes.
            stages: 1 stops after the coarse pose and the descriptors, 3 runs everything.

        Raises:
            ValueError: a size that is no multiple of the patch, portrait-shaped storage, or a wrong number of views.
        """
        grid = self._grid(rgb, portrait)
        batch, views = rgb.shape[:2]
        fine, tokens = self._encode(rgb, grid)
        places = position_features(grid.positions, self.config.width)
        prior, logits = self.prior(tokens, grid.positions, places)
        source = (torch.arange(views, device=rgb.device) > 0).long()
        x = self.enter[0](tokens) + places + prior + self.tag[source][:, None]
        cameras, first = self.stage1(self.camera[source].expand(batch, -1, -1), x, grid)
        cameras = cameras + self._pooled(0, first)
        coarse = self.pose1(cameras, initial_pose(batch, views, rgb.device))
        found = {
            "coarse": coarse,
            "match_logits": logits,
            "token_descriptors": functional.normalize(self.describe_tokens(first).float(), dim=-1),
            "token_temperature": self.log_temperatures[0].exp().clamp(max=50),
            "descriptors": self._dense_descriptors(tokens, first, fine, grid),
            "descriptor_temperature": self.log_temperatures[1].exp().clamp(max=50),
        }
        if stages < 2:
            return SmallOutput(refined=[], local=None, world=None, **found)
        pose = self._handed_on(coarse[-1], "local")
        cameras, second = self.stage2(cameras + self.condition[0](pose), self.enter[1](tokens) + first + places, grid)
        refined = self.pose2(cameras + self._pooled(1, second), pose)
        local = self._local(tokens, second, fine, grid, refined[-1])
        pose = self._handed_on((refined if self.config.conditioning == "cascade" else coarse)[-1], "global")
        condition = self.condition[1](pose)
        cameras, third = self.stage3(cameras + condition, self.enter[2](tokens) + second + condition[:, :, None], grid)
        world = self._global(tokens, third, fine, grid, (pose, cameras))
        return SmallOutput(refined=refined, local=local, world=world, **found)

    @torch.inference_mode()
    def predict(self, views: Views) -> Prediction:
        """Run the cascade on one set of views.

        Raises:
            ValueError: as for :meth:`forward`.
        """
        out = self(views.rgb[None], views.portrait)
        assert out.local is not None and out.world is not None  # stages=3 always fills them
        return Prediction(
            coarse_c2w=pose_matrices(out.coarse[-1])[0],
            refined_c2w=pose_matrices(out.refined[-1])[0],
            focal=out.refined[-1][0, :, 7].exp(),
            points_local=out.local.points[0],
            confidence_local=out.local.confidence[0],
            points_global=out.world.points[0],
            confidence_global=out.world.confidence[0],
            descriptors=out.descriptors[0],
        )

    def _grid(self, rgb: Tensor, portrait: Tensor) -> _Grid:
        batch, views, _, height, width = rgb.shape
        patch = self.config.patch
        if height % patch or width % patch or height > width:
            raise ValueError(
                f"images must be landscape with sides that are multiples of {patch}, not {height} x {width}"
            )
        if not 2 <= views <= MAX_VIEWS:
            raise ValueError(f"the network takes 2 to {MAX_VIEWS} views, not {views}")
        portrait = portrait.expand(batch, views)
        plane = _plane(height, width, portrait)
        cells = _plane(height // patch, width // patch, portrait).flatten(2, 3)
        shape = (batch, views, height // patch, width // patch)
        return _Grid(shape, portrait.flatten(), 2 * cells.flip(-1), plane, self.config.rope_span)

    def _encode(self, rgb: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
        fine, tokens = self.stem(rgb.flatten(0, 1), grid.portrait)
        x = tokens.flatten(2).transpose(1, 2)
        x = x + position_features(grid.positions.flatten(0, 1), self.config.encoder_width)
        rope = grid.rope(self.config.head_width, False, False)
        for block in self.encoder:
            x = block(x, rope)
        return fine, self.encoder_norm(x).unflatten(0, rgb.shape[:2])

    def _pooled(self, index: int, tokens: Tensor) -> Tensor:
        return self.pool[index](torch.cat([tokens.mean(2), tokens.amax(2)], -1))

    def _cells(self, encoded: Tensor, decoded: Tensor, grid: _Grid) -> Tensor:
        both = torch.cat([encoded.to(decoded.dtype), decoded], -1)
        return both.flatten(0, 1).unflatten(1, grid.shape[2:])

    def _dense_descriptors(self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: _Grid) -> Tensor:
        maps = self.describe(self._cells(encoded, decoded, grid), fine, grid.portrait)
        return functional.normalize(maps, dim=1).unflatten(0, grid.shape[:2])

    def _local(self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: _Grid, pose: Tensor) -> PointMaps:
        """Points along the rays of the predicted focal length, which the head may correct."""
        depth, correction, confidence = self.local_points(self._cells(encoded, decoded, grid), fine, grid.portrait)
        depth, correction = depth.unflatten(0, grid.shape[:2]), correction.unflatten(0, grid.shape[:2])
        points = depth[..., None] * (_rays(grid, pose) + correction)
        return PointMaps(points, confidence.unflatten(0, grid.shape[:2]))

    def _global(
        self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: _Grid, cameras: tuple[Tensor, Tensor]
    ) -> PointMaps:
        """Rays of the conditioning poses at predicted depths; one predicted number per scene scales translations."""
        pose, states = cameras
        depth, correction, confidence = self.global_points(self._cells(encoded, decoded, grid), fine, grid.portrait)
        depth, correction = depth.unflatten(0, grid.shape[:2]), correction.unflatten(0, grid.shape[:2])
        matrices = pose_matrices(pose)
        points = torch.einsum(
            "bvij,bvhwj->bvhwi", matrices[..., :3, :3], depth[..., None] * (_rays(grid, pose) + correction)
        )
        scale = self.baseline(states.mean(1)).float().clamp(-5, 5).exp()[:, None]
        return PointMaps(
            points + (scale * matrices[..., :3, 3])[:, :, None, None], confidence.unflatten(0, grid.shape[:2])
        )

    def _handed_on(self, pose: Tensor, stage: str) -> Tensor:
        """The pose that conditions the next stage: detached, translations of mean length 1, in training disturbed.

        Source: FLARE, arXiv 2502.12138, section 3.3 (noise between the stages).
        """
        if self.config.conditioning == "direct":
            return initial_pose(len(pose), pose.shape[1], pose.device)
        pose = pose.detach().float()
        length = pose[:, 1:, :3].norm(dim=-1).mean(1).clamp_min(1e-4)[:, None, None]
        shift, turn = pose[..., :3] / length, functional.normalize(pose[..., 3:7], dim=-1)
        if self.training:
            degrees, metres = (self.pose_noise * sigma for sigma in _NOISE[stage])
            hit = (torch.rand_like(pose[..., :1]) < _NOISY_SHARE).float()
            hit[:, 0] = 0
            shift = shift + hit * metres * torch.randn_like(shift)
            small = torch.cat(
                [torch.ones_like(hit), hit * torch.deg2rad(torch.tensor(degrees / 2)) * torch.randn_like(shift)], -1
            )
            turn = multiply_quaternions(functional.normalize(small, dim=-1), turn)
        return torch.cat([shift, turn, pose[..., 7:]], -1)


def _plane(height: int, width: int, portrait: Tensor) -> Tensor:
    """(x, y) of cell centres of upright images, in units of the long side, zero in the centre: (B, V, H, W, 2)."""
    across = (torch.arange(width, device=portrait.device) + 0.5 - 0.5 * width) / width
    down = (torch.arange(height, device=portrait.device) + 0.5 - 0.5 * height) / width
    plane = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), -1)
    return torch.where(portrait[..., None, None, None], plane.flip(-1), plane)


def _rays(grid: _Grid, pose: Tensor) -> Tensor:
    focal = pose[..., 7].detach().float().clamp(-3, 3).exp()[..., None, None, None]
    return functional.pad(grid.rays / focal, (0, 1), value=1.0)


def multiply_quaternions(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Hamilton product, wxyz: the rotation b followed by a."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by]
    parts += [aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw]
    return torch.stack(parts, -1)


def rotations(quats_wxyz: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of quaternions of any length but zero."""
    w, x, y, z = functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def pose_matrices(raw: Float[Tensor, "... 8"]) -> Float[Tensor, "... 4 4"]:
    """Camera-to-reference matrices of raw poses."""
    top = torch.cat([rotations(raw[..., 3:7].float()), raw[..., :3, None].float()], -1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], device=raw.device).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)
