"""FLARE: cameras, then geometry seen from each camera, then geometry in one frame.

Source: Zhang et al., "FLARE: Feed-forward Geometry, Appearance and Camera Estimation from Uncalibrated Sparse Views",
CVPR 2025, arXiv 2502.12138.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flarecli.geometry.transforms import invert_rigid, quats_wxyz_from_matrix
from flarecli.model.config_flare import FlareConfig
from flarecli.model.decoder import GlobalStage, LocalStage, PoseStage
from flarecli.model.dpt import DptHead, dense_pointmaps
from flarecli.model.encoder import Encoded, Encoder
from flarecli.model.layers import Mlp
from flarecli.model.pose_head import PoseEstimate, PoseHead
from flarecli.scene.views import Prediction, Views


@dataclass(frozen=True, slots=True, eq=False)
class FlareOutput:
    """Everything FLARE says about V views; landscape storage, float32.

    Attributes:
        coarse_poses: cameras after every iteration of the first pose head.
        refined_poses: cameras after every iteration of the second pose head.
        points_local: every pixel in its own camera's frame, or None where it was not asked for.
        confidence_local: above 1, or None where it was not asked for.
        points_global: every pixel in the frame of the reference camera; its unit is not that of the poses.
        confidence_global: above 1.
    """

    coarse_poses: list[PoseEstimate]
    refined_poses: list[PoseEstimate]
    points_local: Float[Tensor, "B V H W 3"] | None
    confidence_local: Float[Tensor, "B V H W"] | None
    points_global: Float[Tensor, "B V H W 3"]
    confidence_global: Float[Tensor, "B V H W"]


class Flare(nn.Module):
    """The geometry network.

    ::

        rgb ─ encoder ─┬─ coarse tokens ─ pose stage ─ coarse pose head ─ coarse poses
                       │                                                     │ or known poses
                       ├─ tokens, taps ── local stage ◄── pose embedding ────┘
                       │                    │      └─ camera tokens ─ refined pose head ─ refined poses
                       │                    ├─ local head ─ points_local                     │ or known poses
                       │                    ▼ memory                                         │
                       └─ tokens, taps ── global stage ◄── pose embedding (the same MLP) ────┘
                                            └─ global head ─ points_global

    Colours come in [0, 1]; the network works in the dtype of its weights, its heads in float32 also under
    autocast.
    """

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.pose_stage = PoseStage(config)
        self.coarse_pose_head = PoseHead(config)
        self.pose_embed = Mlp(7, config.dec_dim, config.dec_dim)
        self.local_stage = LocalStage(config)
        self.refined_pose_head = PoseHead(config)
        self.global_stage = GlobalStage(config)
        self.local_head = DptHead(config)
        self.global_head = DptHead(config)

    def forward(
        self,
        rgb: Float[Tensor, "B V 3 H W"],
        portrait: Bool[Tensor, "V"],
        c2w: Float[Tensor, "B V 4 4"] | None = None,
        *,
        local: bool = True,
    ) -> FlareOutput:
        """Predict cameras and geometry; view 0 is the reference.

        Args:
            rgb: colours in [0, 1], landscape storage.
            portrait: which views are stored transposed, the same in every scene of the batch.
            c2w: known poses in any common world; they guide the geometry, predicted poses are still returned.
            local: whether the point maps in each camera's own frame are computed.

        Raises:
            ValueError: fewer than two views, or sides that are no multiples of ``config.multiple``.
        """
        grid_hw = self.config.token_grid(rgb.shape[1], (rgb.shape[-2], rgb.shape[-1]))
        flags = [bool(flag) for flag in portrait.tolist()]
        known = None if c2w is None else _relative_poses(c2w)

        encoded = self.encoder(rgb * 2 - 1, flags)
        coarse_poses = self.coarse_pose_head(self.pose_stage(encoded))
        local_tokens, cameras = self.local_stage(encoded, self._embed_pose(coarse_poses[-1], known))
        refined_poses = self.refined_pose_head(cameras)
        points_local = confidence_local = None
        if local:
            points_local, confidence_local = self._points(self.local_head, encoded, local_tokens, grid_hw, flags)
        tokens = self.global_stage(encoded, local_tokens, self._embed_pose(refined_poses[-1], known))
        points_global, confidence_global = self._points(self.global_head, encoded, tokens, grid_hw, flags)
        return FlareOutput(
            coarse_poses, refined_poses, points_local, confidence_local, points_global, confidence_global
        )

    @torch.no_grad()
    def predict(self, views: Views) -> Prediction:
        """Cameras and geometry of one scene.

        The focal lengths of the published pose head were never supervised, so none are returned.
        """
        c2w = None if views.c2w is None else views.c2w[None]
        output = self(views.rgb[None], views.portrait, c2w)
        return Prediction(
            coarse_c2w=output.coarse_poses[-1].c2w[0],
            refined_c2w=output.refined_poses[-1].c2w[0],
            focal=None,
            points_local=output.points_local[0],
            confidence_local=output.confidence_local[0],
            points_global=output.points_global[0],
            confidence_global=output.confidence_global[0],
        )

    def _points(
        self, head: DptHead, encoded: Encoded, layers: list[Tensor], grid_hw: tuple[int, int], portrait: list[bool]
    ) -> tuple[Float[Tensor, "B V H W 3"], Float[Tensor, "B V H W"]]:
        """Points and confidence of a dense head, in float32: the steps of bfloat16 would be terraces in depth."""
        with torch.autocast(encoded.tokens.device.type, enabled=False):
            hooked = [(layers[hook - 1] if hook else encoded.tokens).float() for hook in self.config.dpt_hooks]
            return dense_pointmaps(head, hooked, grid_hw, portrait)

    def _embed_pose(self, predicted: PoseEstimate, known: tuple[Tensor, Tensor] | None) -> Float[Tensor, "B V C"]:
        quats_wxyz, translation = known or (predicted.quats_wxyz, predicted.translation)
        return self.pose_embed(pose_condition(quats_wxyz, translation))


def pose_condition(
    quats_wxyz: Float[Tensor, "B V 4"],
    translation: Float[Tensor, "B V 3"],
    unit: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, "B V 7"]:
    """What the geometry stages are told of the poses: quaternions as they are, translations divided by a unit.

    Args:
        quats_wxyz: of any length.
        translation: in any unit.
        unit: length to divide by; None takes the mean length of the translations.

    Source: FLARE section 3.3; the mean runs over all views, the reference included.
    """
    unit = translation.norm(dim=-1).mean(dim=1) if unit is None else unit
    scale = unit[:, None, None] + 1e-8
    return torch.cat([quats_wxyz, translation / scale], dim=-1)


def _relative_poses(c2w: Float[Tensor, "B V 4 4"]) -> tuple[Float[Tensor, "B V 4"], Float[Tensor, "B V 3"]]:
    """Unit quaternions (real part >= 0) and translations of known poses in the frame of view 0, via float64."""
    world = c2w.detach().cpu().double().numpy()
    relative = invert_rigid(world[:, :1]) @ world
    quats_wxyz = torch.from_numpy(quats_wxyz_from_matrix(relative[..., :3, :3]))
    translation = torch.from_numpy(relative[..., :3, 3])
    return quats_wxyz.to(c2w.device, torch.float32), translation.to(c2w.device, torch.float32)
