"""SPFSplat: NoPoSplat's Gaussians together with the poses of all views; both versions.

Source: Huang and Mikolajczyk, "No Pose at All: Self-Supervised Pose-Free 3D Gaussian Splatting from Sparse Views",
ICCV 2025, arXiv 2508.01171; "SPFSplatV2", arXiv 2509.17246.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.gaussian_activation import seen_coefficients, splat_gaussians
from flarecli.model.noposplat import SplatOutput
from flarecli.model.spf_pose import SpfPoseHead, focal_of_points, in_first_frame, poses_from_numbers
from flarecli.model.splat_heads import SplatHeads
from flarecli.model.splat_prediction import fractions, prediction_of, upright_views
from flarecli.model.splat_trunk import SplatTrunk, each_reads_all_others, targets_stay_unseen
from flarecli.scene.views import Prediction, Views


@dataclass(frozen=True, slots=True, eq=False)
class SpfOutput:
    """What the network says about its context views and the target views behind them.

    Attributes:
        splats: of the context views only; targets do not influence them.
        c2w: poses of the context views in the frame of view 0.
        c2w_with_targets: poses of all views, estimated together, or None without targets.
        focal_px: focal length of all views in pixels, or None for networks that are told the intrinsics.
    """

    splats: SplatOutput
    c2w: Float[Tensor, "B C 4 4"]
    c2w_with_targets: Float[Tensor, "B V 4 4"] | None
    focal_px: Float[Tensor, "B"] | None


class SpfSplat(nn.Module):
    """NoPoSplat's transformer and dense heads, and a pose head for view 0 and one for all other views.

    The first version reads a pose from the mean of all tokens and decodes once more where there are targets; the unit
    is the distance between the first and the last context view. The second version has a pose token, decodes once
    with attention that hides the targets from the context views, and learns the unit.
    """

    def __init__(self, config: SplatConfig) -> None:
        super().__init__()
        self.config = config
        self.pooled = config.pose == "pooled"
        self.trunk = SplatTrunk(config)
        self.heads = SplatHeads(config)
        dim = config.enc_dim + config.dec_dim if self.pooled else config.dec_dim
        self.pose_heads = nn.ModuleList(SpfPoseHead(dim, homogeneous=self.pooled) for _ in range(2))

    def forward(
        self,
        rgb: Float[Tensor, "B V 3 H W"],
        K_fraction: Float[Tensor, "B V 3 3"] | None,
        *,
        num_targets: int = 0,
    ) -> SpfOutput:
        """Predict Gaussians and poses; view 0 is the reference.

        Args:
            rgb: colours in [0, 1], upright: context views, then target views.
            K_fraction: intrinsics in fractions of the image's width and height; ignored by networks without them.
            num_targets: how many of the views are targets.

        Raises:
            ValueError: fewer than two context views, no intrinsics, or sides that are no multiples of the patch.
        """
        num_views = rgb.shape[1]
        contexts = num_views - num_targets
        if contexts < 2:
            raise ValueError("SPFSplat needs at least two context views")
        pixels = rgb * 2 - 1
        grid_hw = (rgb.shape[-2] // self.config.patch_size, rgb.shape[-1] // self.config.patch_size)
        tokens = self.trunk.encode(pixels, K_fraction)
        c2w_with_targets = None
        if self.pooled:
            K_context = None if K_fraction is None else K_fraction[:, :contexts]
            seen = tokens[:, :contexts]
            decoded = self.trunk.decode(seen, K_context, grid_hw, each_reads_all_others(contexts))
            c2w = self._poses(seen, decoded[-1], grid_hw, contexts)
            if num_targets:
                every = self.trunk.decode(tokens, K_fraction, grid_hw, each_reads_all_others(num_views))
                c2w_with_targets = self._poses(tokens, every[-1], grid_hw, contexts)
        else:
            decoded = self.trunk.decode(tokens, K_fraction, grid_hw, targets_stay_unseen(contexts, num_views))
            poses = self._poses(tokens, decoded[-1], grid_hw, contexts)
            c2w, c2w_with_targets = poses[:, :contexts], poses if num_targets else None
        layers = [layer[:, :contexts] for layer in (tokens, *decoded)]
        splats = SplatOutput(*self.heads(layers, grid_hw, pixels[:, :contexts]))
        focal_px = focal_of_points(splats.points[:, 0]) if self.config.intrinsics == "none" else None
        return SpfOutput(splats, c2w, c2w_with_targets, focal_px)

    @torch.no_grad()
    def predict(self, views: Views) -> Prediction:
        """Gaussians and poses of one scene, and one focal length where the network is not told the intrinsics.

        Raises:
            ValueError: see :meth:`forward`, or the views are not square.
        """
        rgb, K = upright_views(views)
        size_hw = (rgb.shape[-2], rgb.shape[-1])
        output = self(rgb, None if K is None else fractions(K, size_hw))
        # The renderer of its training reads the quaternion with the real part first, unlike the published adapter.
        gaussians = seen_coefficients(splat_gaussians(output.splats.gaussians[0], real_part_first=True))
        focal = None if output.focal_px is None else (output.focal_px / max(size_hw)).expand(len(views))
        return prediction_of(output.splats.points[0], gaussians, output.c2w[0], views.portrait, focal=focal)

    def _poses(
        self,
        encoded: Float[Tensor, "B V L E"],
        decoded: Float[Tensor, "B V M C"],
        grid_hw: tuple[int, int],
        contexts: int,
    ) -> Float[Tensor, "B V 4 4"]:
        with torch.autocast(decoded.device.type, enabled=False):
            if self.pooled:
                patches = grid_hw[0] * grid_hw[1]
                both = [encoded[:, :, :patches].float(), decoded[:, :, :patches].float()]
                features = torch.cat(both, dim=-1).mean(dim=2)
            else:
                features = decoded[:, :, -1].float()
            numbers = torch.cat([self.pose_heads[0](features[:, :1]), self.pose_heads[1](features[:, 1:])], dim=1)
            return in_first_frame(poses_from_numbers(numbers), contexts - 1 if self.pooled else None)
