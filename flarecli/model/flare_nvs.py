"""FLARE for novel views: the cascade of the geometry network, and a Gaussian per pixel of two views.

Source: Zhang et al., FLARE, CVPR 2025, arXiv 2502.12138, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flarecli.model.appearance import Appearance
from flarecli.model.config_flare import FlareConfig
from flarecli.model.decoder import GlobalStage, LocalStage, PoseStage
from flarecli.model.dpt import DptHead, dense_pointmaps
from flarecli.model.encoder import Encoder
from flarecli.model.flare import pose_condition
from flarecli.model.flare_gaussian_head import FlareGaussianHead, unfold_descriptors
from flarecli.model.gaussian_activation import flare_gaussians
from flarecli.model.layers import Mlp
from flarecli.model.pose_head import PoseEstimate, PoseHead
from flarecli.model.splat_prediction import poses_from_centres, prediction_of, upright_views
from flarecli.model.token_grid import apply_upright, orientation_groups
from flarecli.scene.views import Prediction, Views

_INTRINSICS_UNIT = 2000.0  # pixels


@dataclass(frozen=True, slots=True, eq=False)
class FlareNvsOutput:
    """What the network says about V views; landscape storage, float32.

    Attributes:
        coarse_poses: cameras after every iteration of the first pose head.
        refined_poses: cameras after every iteration of the second pose head.
        points: every pixel in the frame of the reference camera, in units of the distance between the first two views.
        confidence: above 1.
        gaussians: raw parameters; see :func:`~flarecli.model.gaussian_activation.flare_gaussians`.
    """

    coarse_poses: list[PoseEstimate]
    refined_poses: list[PoseEstimate]
    points: Float[Tensor, "B V H W 3"]
    confidence: Float[Tensor, "B V H W"]
    gaussians: Float[Tensor, "B V 83 H W"]


class FlareNvs(nn.Module):
    """The novel-view network.

    ::

        rgb ─┬─ encoder ─ pose stage ─ local stage ─ refined poses      (as in the geometry network)
             │     │                       ▼ memory
             └─ appearance ─ tokens ── global stage ◄── poses and intrinsics
                   │                       ├─ global head ─ points
                   └─ detail map ─┐        └─ descriptors ─┐
                                  └────── Gaussian head ◄──┘

    It has no head for points in each camera's own frame. Its heads work in float32 also under autocast.
    """

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        dim, hooked_dim = config.dec_dim, config.enc_dim + config.dec_dim
        self.encoder = Encoder(config)
        self.pose_stage = PoseStage(config)
        self.coarse_pose_head = PoseHead(config)
        self.pose_embed = Mlp(7, dim, dim)
        self.local_stage = LocalStage(config)
        self.refined_pose_head = PoseHead(config)
        self.appearance = Appearance(config)
        self.appearance_embed = nn.Linear(config.enc_dim, dim)
        self.intrinsics_embed = Mlp(4, dim, dim)
        self.global_stage = GlobalStage(config)
        self.global_head = DptHead(config)
        self.descriptors = Mlp(hooked_dim, 4 * hooked_dim, config.descriptor_dim * config.patch_size**2)
        self.gaussian_head = FlareGaussianHead(config)

    def forward(
        self, rgb: Float[Tensor, "B V 3 H W"], portrait: Bool[Tensor, "V"], K: Float[Tensor, "B V 3 3"]
    ) -> FlareNvsOutput:
        """Predict cameras, points and Gaussians; view 0 is the reference.

        Args:
            rgb: colours in [0, 1], landscape storage.
            portrait: which views are stored transposed, the same in every scene of the batch.
            K: intrinsics in pixels of the upright views.

        Raises:
            ValueError: fewer than two views, or sides that are no multiples of ``config.multiple``.
        """
        grid_hw = self.config.token_grid(rgb.shape[1], (rgb.shape[-2], rgb.shape[-1]))
        flags = [bool(flag) for flag in portrait.tolist()]
        pixels = rgb * 2 - 1

        encoded = self.encoder(pixels, flags)
        coarse_poses = self.coarse_pose_head(self.pose_stage(encoded))
        coarse = coarse_poses[-1]
        condition = self.pose_embed(pose_condition(coarse.quats_wxyz, coarse.translation))
        local_tokens, cameras = self.local_stage(encoded, condition)
        refined_poses = self.refined_pose_head(cameras)

        refined = refined_poses[-1]
        baseline = (refined.translation[:, 0] - refined.translation[:, 1]).norm(dim=-1)
        condition = self.pose_embed(pose_condition(refined.quats_wxyz, refined.translation, baseline))
        lens = torch.stack([K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2]], dim=-1) / _INTRINSICS_UNIT
        fine_tokens, detail = self.appearance(pixels, flags, encoded.grid)
        tokens = self.global_stage(
            encoded, local_tokens, condition + self.intrinsics_embed(lens), self.appearance_embed(fine_tokens)
        )
        with torch.autocast(rgb.device.type, enabled=False):
            layers = [part.float() for part in (encoded.tokens, *tokens)]
            points, confidence = dense_pointmaps(
                self.global_head, [layers[hook] for hook in self.config.dpt_hooks], grid_hw, flags
            )
            descriptors = self._descriptor_maps(torch.cat([layers[0], layers[-1]], dim=-1), grid_hw, flags)
            gaussians = apply_upright(self.gaussian_head, torch.cat([descriptors, detail.float()], dim=2), flags)
        return FlareNvsOutput(coarse_poses, refined_poses, points, confidence, gaussians)

    @torch.no_grad()
    def predict(self, views: Views) -> Prediction:
        """Gaussians of one scene, and the poses under which they project onto their own pixels.

        The predicted poses have a unit of their own; those of the Gaussian centres fit the Gaussians.

        Raises:
            ValueError: see :meth:`forward`; the intrinsics are missing, or the views are not square.
        """
        rgb, K = upright_views(views)
        if K is None:
            raise ValueError("FLARE's novel-view network needs the intrinsics of its views")
        output = self(rgb, torch.zeros_like(views.portrait), K)
        gaussians = flare_gaussians(output.gaussians[0])
        c2w = poses_from_centres(output.points[0], gaussians.opacities, K[0])
        return prediction_of(output.points[0], gaussians, c2w, views.portrait, confidence=output.confidence[0])

    def _descriptor_maps(
        self, hooked: Float[Tensor, "B V L C"], grid_hw: tuple[int, int], portrait: list[bool]
    ) -> Float[Tensor, "B V D H W"]:
        """Descriptors per pixel, in the storage of the views."""
        spread = self.descriptors(hooked)
        stored = [spread.new_empty(0)] * len(portrait)
        turned_hw = (grid_hw[1], grid_hw[0])
        for flag, views in orientation_groups(portrait):
            for view in views:
                upright = unfold_descriptors(spread[:, view], turned_hw if flag else grid_hw, self.config.patch_size)
                stored[view] = upright.transpose(-1, -2) if flag else upright
        return torch.stack(stored, dim=1)
