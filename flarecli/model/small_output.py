"""What the small network returns for a batch: raw answers of every stage, as the losses look at them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flarecli.scene.views import GaussianMaps


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
        gaussians: a Gaussian per pixel, on the pixel's ray.
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
    gaussians: GaussianMaps | None = None
