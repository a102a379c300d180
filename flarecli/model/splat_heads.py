"""Dense heads of NoPoSplat and SPFSplat: a point and raw Gaussian parameters per pixel.

Source: Ye et al., NoPoSplat, arXiv 2410.24207, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.dpt import DptGaussianHead, DptHead, activate_points
from flarecli.model.gaussian_activation import SPLAT_CHANNELS


class SplatHeads(nn.Module):
    """Two heads of each kind: the first for view 0, the second for all others."""

    def __init__(self, config: SplatConfig) -> None:
        super().__init__()
        self.config = config
        self.point_heads = nn.ModuleList(DptHead(config, 3) for _ in range(2))
        self.gaussian_heads = nn.ModuleList(DptGaussianHead(config, SPLAT_CHANNELS) for _ in range(2))

    def forward(
        self,
        layers: Sequence[Float[Tensor, "B V L C"]],
        grid_hw: tuple[int, int],
        pixels: Float[Tensor, "B V 3 H W"],
    ) -> tuple[Float[Tensor, "B V H W 3"], Float[Tensor, "B V 83 H W"]]:
        """Points in the frame of view 0 and raw Gaussian parameters; float32 also under autocast.

        Args:
            layers: tokens of the encoder and of every decoder layer; what follows the patches is ignored.
            grid_hw: rows and columns of patches.
            pixels: colours in [-1, 1].
        """
        batch, num_views = pixels.shape[:2]
        count = grid_hw[0] * grid_hw[1]
        points, raw = [], []
        with torch.autocast(pixels.device.type, enabled=False):
            for index, views in ((0, range(1)), (1, range(1, num_views))):
                for start in range(views.start, views.stop, self.config.views_per_chunk):
                    chunk = slice(start, min(start + self.config.views_per_chunk, views.stop))
                    hooked = [layers[hook][:, chunk, :count].flatten(0, 1).float() for hook in self.config.dpt_hooks]
                    vectors = self.point_heads[index](hooked, grid_hw)
                    parameters = self.gaussian_heads[index](hooked, grid_hw, pixels[:, chunk].flatten(0, 1).float())
                    points.append(activate_points(vectors.movedim(1, -1)).unflatten(0, (batch, -1)))
                    raw.append(parameters.unflatten(0, (batch, -1)))
        return torch.cat(points, dim=1), torch.cat(raw, dim=1)
