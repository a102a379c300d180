"""The small network: FLARE's cascade (coarse pose, camera-centric points with a refined pose, global points).

Against the published network it alternates attention within and across views with the camera token in the sequence,
gives stage 1 an explicit match prior, and returns dense descriptors trained for matching.

    rgb ── stem ── encoder ──┬── match prior ──┐
                             ├──────────────── stage 1 ── coarse pose, token and dense descriptors
                             ├──────────────── stage 2 ── refined pose, camera-centric points
                             └──────────────── stage 3 ── global points, Gaussians

Source: FLARE, arXiv 2502.12138, section 3 (cascade); VGGT, arXiv 2503.11651, section 3.2 (alternating attention).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.layers import EncBlock, Mlp, spread
from flarecli.model.small_gaussians import GaussianHead
from flarecli.model.small_grid import Grid, make_grid
from flarecli.model.small_output import PointMaps, SmallOutput
from flarecli.model.small_parts import DenseHead, MatchPrior, PointHead, PoseHead, Stage, Stem, position_features
from flarecli.model.small_pose import POSE_NUMBERS, conditioning_pose, initial_pose, pose_matrices
from flarecli.scene.views import Prediction, Views

_NOISE = {"local": (5.0, 0.1), "global": (3.0, 0.1)}


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
        self.camera = nn.Parameter(spread(torch.empty(2, width), 0.02))
        self.tag = nn.Parameter(spread(torch.empty(2, width), 0.02))
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
        if config.gaussians:
            self.gaussian_head = GaussianHead(config)

    def forward(
        self,
        rgb: Float[Tensor, "B V 3 H W"],
        portrait: Bool[Tensor, "*B V"],
        stages: int = 3,
        with_gaussians: bool = False,
    ) -> SmallOutput:
        """Run the cascade.

        Args:
            rgb: colours in [0, 1], landscape storage; H and W are multiples of the patch. View 0 is the reference.
            portrait: views stored transposed, per scene or the same for all scenes.
            stages: 1 stops after the coarse pose and the descriptors, 3 runs all three.
            with_gaussians: also run the Gaussian head, after the third stage.

        Raises:
            ValueError: a size that is no multiple of the patch, portrait-shaped storage, or a wrong number of views.
        """
        grid = make_grid(rgb, portrait, self.config)
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
        gaussians = None
        if with_gaussians:
            gaussians = self.gaussian_head(grid.cells(tokens, third), fine, rgb, local, grid)
        return SmallOutput(refined=refined, local=local, world=world, gaussians=gaussians, **found)

    def compile_blocks(self) -> None:
        """Have torch.compile translate the attention blocks, once for all sizes of images; names of parameters stay.

        Block by block, because the way through the whole depends on the views and their orientation, and because all
        blocks of one width share one translation.
        """
        for module in self.modules():
            if isinstance(module, EncBlock):
                module.compile(dynamic=True)

    @torch.inference_mode()
    def predict(self, views: Views) -> Prediction:
        """Run the cascade on one set of views.

        Raises:
            ValueError: as for :meth:`forward`.
        """
        out = self(views.rgb[None], views.portrait, with_gaussians=self.config.gaussians)
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
            gaussians=None if out.gaussians is None else out.gaussians.map(lambda each: each[0]),
        )

    def _encode(self, rgb: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        fine, tokens = self.stem(rgb.flatten(0, 1), grid.sides)
        x = tokens.flatten(2).transpose(1, 2)
        x = x + position_features(grid.positions.flatten(0, 1), self.config.encoder_width)
        rope = grid.rope(self.config.head_width, False, False)
        for block in self.encoder:
            x = block(x, rope)
        return fine, self.encoder_norm(x).unflatten(0, rgb.shape[:2])

    def _pooled(self, index: int, tokens: Tensor) -> Tensor:
        return self.pool[index](torch.cat([tokens.mean(2), tokens.amax(2)], -1))

    def _dense_descriptors(self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: Grid) -> Tensor:
        maps = self.describe(grid.cells(encoded, decoded), fine, grid.sides)
        return functional.normalize(maps, dim=1).unflatten(0, grid.shape[:2])

    def _local(self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: Grid, pose: Tensor) -> PointMaps:
        """Points along the rays of the predicted focal length, which the head may correct."""
        depth, correction, confidence = self.local_points(grid.cells(encoded, decoded), fine, grid.sides)
        depth, correction = depth.unflatten(0, grid.shape[:2]), correction.unflatten(0, grid.shape[:2])
        points = depth[..., None] * (grid.rays_of(pose) + correction)
        return PointMaps(points, confidence.unflatten(0, grid.shape[:2]))

    def _global(
        self, encoded: Tensor, decoded: Tensor, fine: Tensor, grid: Grid, cameras: tuple[Tensor, Tensor]
    ) -> PointMaps:
        """Rays of the conditioning poses at predicted depths; one predicted number per scene scales translations.

        Points are turned in float32 also under autocast: bfloat16 would leave about a hundred different depths.
        """
        pose, states = cameras
        depth, correction, confidence = self.global_points(grid.cells(encoded, decoded), fine, grid.sides)
        depth, correction = depth.unflatten(0, grid.shape[:2]), correction.unflatten(0, grid.shape[:2])
        matrices = pose_matrices(pose)
        with torch.autocast(depth.device.type, enabled=False):
            points = torch.einsum(
                "bvij,bvhwj->bvhwi", matrices[..., :3, :3], depth[..., None] * (grid.rays_of(pose) + correction)
            )
        scale = self.baseline(states.mean(1)).float().clamp(-5, 5).exp()[:, None]
        return PointMaps(
            points + (scale * matrices[..., :3, 3])[:, :, None, None], confidence.unflatten(0, grid.shape[:2])
        )

    def _handed_on(self, pose: Tensor, stage: str) -> Tensor:
        """The pose that conditions the next stage, in training disturbed; without conditioning nobody's pose."""
        if self.config.conditioning == "direct":
            return initial_pose(len(pose), pose.shape[1], pose.device)
        degrees, metres = (self.pose_noise * sigma for sigma in _NOISE[stage])
        return conditioning_pose(pose, (degrees, metres) if self.training else None)
