"""What a network gets and what it returns (torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """V prepared photos of one scene, in landscape storage.

    All photos of a batch share one tensor of shape H <= W; a portrait photo is stored transposed (its two image axes
    swapped, not rotated), as FLARE expects.

    Attributes:
        rgb: colours in [0, 1]; H and W are multiples of the network's patch grid.
        portrait: which views are stored transposed.
        c2w: known camera-to-world poses (any common world), or None.
        K: known or guessed intrinsics in pixels of the upright prepared views, or None.
    """

    rgb: Float[Tensor, "V 3 H W"]
    portrait: Bool[Tensor, "V"]
    c2w: Float[Tensor, "V 4 4"] | None = None
    K: Float[Tensor, "V 3 3"] | None = None

    def __post_init__(self) -> None:
        if self.rgb.ndim != 4 or self.rgb.shape[1] != 3 or self.rgb.shape[2] > self.rgb.shape[3]:
            raise ValueError(f"rgb must be V x 3 x H x W with H <= W, not {tuple(self.rgb.shape)}")
        if self.portrait.shape != (len(self.rgb),):
            raise ValueError("portrait must have one entry per view")
        if self.c2w is not None and self.c2w.shape != (len(self.rgb), 4, 4):
            raise ValueError("c2w must be V x 4 x 4")
        if self.K is not None and self.K.shape != (len(self.rgb), 3, 3):
            raise ValueError("K must be V x 3 x 3")

    def __len__(self) -> int:
        return len(self.rgb)

    def to(self, device: torch.device) -> Views:
        """The same views on another device."""
        c2w, K = (None if each is None else each.to(device) for each in (self.c2w, self.K))
        return Views(self.rgb.to(device), self.portrait.to(device), c2w, K)

    def select(self, index: list[int]) -> Views:
        """The views at these positions, in this order."""
        c2w, K = (None if each is None else each[index] for each in (self.c2w, self.K))
        return Views(self.rgb[index], self.portrait[index], c2w, K)


@dataclass(frozen=True, slots=True, eq=False)
class GaussianMaps:
    """One Gaussian per pixel of V views; activated values, landscape storage as :attr:`Prediction.points_global`.

    The centre is the pixel's global point, and frame and unit are those of the global points. Gaussians that are
    ``on_rays`` lie on the rays of their pixels instead, at whatever depth is known there in the end: their axes are in
    the frame of their own upright camera and the unit of their scales is the footprint of the pixel, which is depth /
    focal length.

    Attributes:
        scales: standard deviations along the three axes.
        quats_wxyz: orientation of the axes, real part first; of unit length but for pixels without a direction.
        opacities: in [0, 1].
        sh: spherical-harmonic colours; colour = 0.5 + sum(sh * basis).
        on_rays: whether they wait for a depth, as above.
    """

    scales: Float[Tensor, "*v H W 3"]
    quats_wxyz: Float[Tensor, "*v H W 4"]
    opacities: Float[Tensor, "*v H W"]
    sh: Float[Tensor, "*v H W D 3"]
    on_rays: bool = False

    def map(self, change: Callable[[Tensor], Tensor]) -> GaussianMaps:
        """The same maps with every tensor changed."""
        names = ("scales", "quats_wxyz", "opacities", "sh")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What every geometry network returns for V views; landscape storage like :class:`Views`, view 0 is the reference.

    Attributes:
        coarse_c2w: camera-to-reference poses of the last coarse iteration; translations in a unit of their own.
        refined_c2w: the same after the camera-centric stage.
        focal: focal lengths of the pose head divided by the long side of the stored image, or None where untrained.
        points_local: every pixel in its own camera's frame; unit of its own.
        confidence_local: > 1.
        points_global: every pixel in the frame of the reference camera; unit of its own.
        confidence_global: > 1.
        descriptors: unit-length local descriptors at 1/S resolution, or None where the network has none.
        gaussians: a Gaussian per pixel, or None where the network has none.
    """

    coarse_c2w: Float[Tensor, "V 4 4"]
    refined_c2w: Float[Tensor, "V 4 4"]
    focal: Float[Tensor, "V"] | None
    points_local: Float[Tensor, "V H W 3"]
    confidence_local: Float[Tensor, "V H W"]
    points_global: Float[Tensor, "V H W 3"]
    confidence_global: Float[Tensor, "V H W"]
    descriptors: Float[Tensor, "V C h w"] | None = None
    gaussians: GaussianMaps | None = None
