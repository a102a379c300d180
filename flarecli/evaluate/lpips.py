"""LPIPS from backbone weights that the user has: features of AlexNet or VGG-16, compared as Zhang et al. describe.

The backbones were trained on ImageNet and are not shipped with any package; the small linear heads are, with
torchmetrics.

Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, eq. 1, version 0.1 of
the heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flarecli.errors import WeightsError, first_line
from flarecli.runtime import require

Backbone = Literal["alex", "vgg"]
_PUBLISHED = "give the file of weights that torchvision or the lpips package publishes"
# Mean and spread of ImageNet for pictures in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Convolutions (index in the published "features", stride, padding) by stage; max pooling comes before each stage but
# the first where the second entry says so. The output of every stage is compared.
_ALEX = (((0, 4, 2),), ((3, 1, 2),), ((6, 1, 1),), ((8, 1, 1),), ((10, 1, 1),))
_VGG = tuple(
    tuple((index, 1, 1) for index in stage) for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
)
_STAGES = {"alex": _ALEX, "vgg": _VGG}
_POOL_BEFORE = {"alex": (1, 2), "vgg": (1, 2, 3, 4)}
_POOL_SIZE = {"alex": 3, "vgg": 2}
_FIRST_WEIGHT = {"alex": (64, 3, 11, 11), "vgg": (64, 3, 3, 3)}


class Lpips:
    """The learned perceptual distance; 0 for equal pictures.

    Args:
        weights: torchvision's state dict of AlexNet or VGG-16 (a .pth).

    Raises:
        WeightsError: it can't be read safely or is neither of the two.
        MissingDependency: torchmetrics, which brings the linear heads, is not installed.
    """

    def __init__(self, weights: Path) -> None:
        state = _load(weights)
        self.backbone: Backbone = _kind(state, weights)
        metrics = require("torchmetrics", "LPIPS heads")
        heads = Path(str(metrics.__file__)).parent / "functional/image/lpips_models" / f"{self.backbone}.pth"
        self._heads = [each.reshape(-1) for each in _load(heads).values()]
        self._state = {name: value.float() for name, value in state.items() if name.startswith("features.")}

    @torch.no_grad()
    def __call__(self, a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"]) -> float:
        """Distance of two pictures in [0, 1], at least 32 pixels a side."""
        pair = torch.stack([a, b]).permute(0, 3, 1, 2).cpu().float() * 2 - 1
        pair = (pair - torch.tensor(_SHIFT)[:, None, None]) / torch.tensor(_SCALE)[:, None, None]
        total = 0.0
        for stage, (convolutions, head) in enumerate(zip(_STAGES[self.backbone], self._heads, strict=True)):
            if stage in _POOL_BEFORE[self.backbone]:
                pair = functional.max_pool2d(pair, _POOL_SIZE[self.backbone], 2)
            for index, stride, padding in convolutions:
                weight, bias = (self._state[f"features.{index}.{part}"] for part in ("weight", "bias"))
                pair = functional.conv2d(pair, weight, bias, stride, padding).relu()
            unit = pair / (pair.square().sum(1, keepdim=True) + 1e-8).sqrt()
            difference = (unit[0] - unit[1]).square()
            total += float((difference * head[:, None, None]).sum(0).mean())
        return total


def _load(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise WeightsError(f"{path} can't be read as weights: {first_line(error)}", _PUBLISHED) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict", _PUBLISHED)
    return state


def _kind(state: dict[str, Tensor], path: Path) -> Backbone:
    for kind in ("alex", "vgg"):
        indices = [index for stage in _STAGES[kind] for index, _, _ in stage]
        complete = all(f"features.{index}.{part}" in state for index in indices for part in ("weight", "bias"))
        if complete and tuple(state["features.0.weight"].shape) == _FIRST_WEIGHT[kind]:
            return kind
    raise WeightsError(f"{path} is neither AlexNet nor VGG-16", "give torchvision's alexnet or vgg16 weights")
