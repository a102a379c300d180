"""NoPoSplat: Gaussians of a few views in the frame of the first, from images and intrinsics, without poses.

Source: Ye et al., "No Pose, No Problem: Surprisingly Simple 3D Gaussian Splats from Sparse Unposed Images", ICLR 2025,
arXiv 2410.24207.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.gaussian_activation import seen_coefficients, splat_gaussians
from flarecli.model.splat_heads import SplatHeads
from flarecli.model.splat_prediction import fractions, poses_from_centres, prediction_of, upright_views
from flarecli.model.splat_trunk import SplatTrunk, each_reads_all_others
from flarecli.scene.views import Prediction, Views


@dataclass(frozen=True, slots=True, eq=False)
class SplatOutput:
    """What the network says about V views; upright, float32.

    Attributes:
        points: centre of the Gaussian of every pixel, in the frame of view 0; the network was trained so that the
            first and the last camera are one unit apart.
        gaussians: raw parameters; see :func:`~flarecli.model.gaussian_activation.splat_gaussians`.
    """

    points: Float[Tensor, "B V H W 3"]
    gaussians: Float[Tensor, "B V 83 H W"]


class NoPoSplat(nn.Module):
    """Encoder with an intrinsics token, cross-view decoder, and two dense heads per kind of view."""

    def __init__(self, config: SplatConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = SplatTrunk(config)
        self.heads = SplatHeads(config)

    def forward(self, rgb: Float[Tensor, "B V 3 H W"], K_fraction: Float[Tensor, "B V 3 3"] | None) -> SplatOutput:
        """Predict Gaussians; view 0 is the reference.

        Args:
            rgb: colours in [0, 1], upright.
            K_fraction: intrinsics in fractions of the image's width and height.

        Raises:
            ValueError: fewer than two views, no intrinsics, or sides that are no multiples of the patch.
        """
        if rgb.shape[1] < 2:
            raise ValueError("NoPoSplat needs at least two views")
        pixels = rgb * 2 - 1
        grid_hw = (rgb.shape[-2] // self.config.patch_size, rgb.shape[-1] // self.config.patch_size)
        tokens = self.trunk.encode(pixels, K_fraction)
        decoded = self.trunk.decode(tokens, K_fraction, grid_hw, each_reads_all_others(rgb.shape[1]))
        return SplatOutput(*self.heads([tokens, *decoded], grid_hw, pixels))

    @torch.no_grad()
    def predict(self, views: Views) -> Prediction:
        """Gaussians of one scene, and the poses under which they project onto their own pixels.

        Raises:
            ValueError: see :meth:`forward`, or the views are not square.
        """
        rgb, K = upright_views(views)
        if K is None:
            raise ValueError("NoPoSplat needs the intrinsics of its views")
        output = self(rgb, fractions(K, (rgb.shape[-2], rgb.shape[-1])))
        gaussians = seen_coefficients(splat_gaussians(output.gaussians[0], real_part_first=False))
        c2w = poses_from_centres(output.points[0], gaussians.opacities, K[0])
        return prediction_of(output.points[0], gaussians, c2w, views.portrait)
