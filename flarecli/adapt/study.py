"""What photos say about themselves before a network learns from them: cameras and depth that matches bear out.

Matches between the photos, the network's own where those of SIFT do not convince, solve and verify the cameras; depth
is measured between the photos. No truth is needed, and photos that nothing verifies take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flarecli.geometry.projection import (
    NEGLIGIBLE_PX,
    denormalise,
    distort,
    intrinsics,
    map_intrinsics,
    normalise,
    pixel_grid,
    values_at,
)
from flarecli.images.loading import Photo
from flarecli.images.preparing import Prepared
from flarecli.inference.assemble import assemble_views, scene_views
from flarecli.inference.correspondences import dense_matches
from flarecli.inference.predict import Predicted, predict
from flarecli.model.loading import LoadedModel
from flarecli.refine.dense import solve_from_matches
from flarecli.refine.run import RefineOptions, refine
from flarecli.runtime import cpu_count
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import Reconstruction
from flarecli.train.generator import Batch
from flarecli.train.sampling import known_depth, measured_alone, sample_colours, sparse_depth

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Photos as the network sees them, and what their matches say; landscape storage, principal point in the middle.

    Attributes:
        names: of the photos.
        rgb: colours in [0, 1], without lens distortion.
        use: 0 where the photo's mask says to ignore the pixel, else 1.
        portrait: views stored transposed.
        c2w: solved cameras; the unit is the median measured depth.
        focal: focal length divided by the long side.
        depth: measured z-depth, 0 where there is none.
        verified: photos whose cameras the matches bear out.
    """

    names: tuple[str, ...]
    rgb: Float[Tensor, "V 3 H W"]
    use: Float[Tensor, "V H W"]
    portrait: Bool[Tensor, "V"]
    c2w: Float[Tensor, "V 4 4"]
    focal: Float[Tensor, "V"]
    depth: Float[Tensor, "V H W"]
    verified: tuple[bool, ...]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the stored views."""
        return int(self.rgb.shape[2]), int(self.rgb.shape[3])

    def to(self, device: torch.device) -> Study:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("rgb", "use", "portrait", "c2w", "focal", "depth")}
        return replace(self, **moved)

    def resized(self, long_side: int, multiple: int) -> Study:
        """The same at another size, cropped about the middle to whole patches.

        Args:
            long_side: new width, no larger than now, a multiple of ``multiple``.
            multiple: both sides become multiples of it.
        """
        height, width = self.size_hw
        tall = round(height * long_side / width)
        rows = max(multiple, tall // multiple * multiple)
        tall = max(tall, rows)
        top = (tall - rows) // 2
        rgb = functional.interpolate(self.rgb, (tall, long_side), mode="area")[:, :, top : top + rows]
        # Depth and masks don't mix: the nearest pixel speaks.
        row = ((torch.arange(tall, device=rgb.device) + 0.5) * height / tall).long()[top : top + rows]
        column = ((torch.arange(long_side, device=rgb.device) + 0.5) * width / long_side).long()
        small = {name: getattr(self, name)[:, row][:, :, column].contiguous() for name in ("use", "depth")}
        return replace(self, rgb=rgb.contiguous(), **small)

    def batch(self, index: Sequence[int]) -> Batch:
        """One training scene of these views; the first is the reference."""
        chosen = list(index)
        shared = torch.ones(1, len(chosen), len(chosen), device=self.rgb.device)
        return Batch(
            rgb=self.rgb[chosen][None],
            depth=self.depth[chosen][None],
            c2w=self.c2w[chosen][None],
            focal=self.focal[chosen][None],
            portrait=self.portrait[chosen][None],
            overlap=shared,
            kind=torch.zeros(1, dtype=torch.long, device=self.rgb.device),
        )


def study_photos(
    photos: Sequence[Photo],
    priors: Priors,
    model: LoadedModel,
    device: torch.device,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Study:
    """Solve and verify the photos' cameras as ``flare reconstruct`` does, and keep what is measured.

    Args:
        photos: two or more.
        priors: what is known about their cameras.
        model: the network before it is adapted.
        device: where it is; the study itself comes back on the CPU.
        seed: of the solvers.
        on_progress: told about the stages.
    """
    predicted = predict(photos, model, device, K=priors.K, on_progress=on_progress)
    initial = assemble_views(photos, scene_views(predicted, priors), predicted, priors)
    threads = cpu_count()

    def from_own_matches() -> Reconstruction:
        return solve_from_matches(initial, dense_matches(predicted), photos, priors, threads=threads, seed=seed)

    options = RefineOptions(threads=threads, seed=seed)
    refined = refine(initial, photos, priors, options, on_progress, better=from_own_matches)
    return study_of(refined, predicted)


def study_of(reconstruction: Reconstruction, predicted: Predicted) -> Study:
    """The measured part of a refined reconstruction, in the pixels of the network.

    Args:
        reconstruction: all photos, verified or not.
        predicted: how the network saw the same photos.
    """
    prepared, cameras = predicted.prepared, reconstruction.cameras
    width = prepared.views.rgb.shape[3]
    count = len(reconstruction)
    K = np.stack([map_intrinsics(cameras.K[i], prepared.prepared_from_photo[i]) for i in range(count)])
    k1 = np.zeros(count) if cameras.k1 is None else cameras.k1
    lenses = [_Straightener.of(prepared, view, K[view], float(k1[view])) for view in range(count)]
    masks = torch.ones(prepared.views.rgb[:, 0].shape) if prepared.masks is None else prepared.masks.float()
    use = [lens.mask(mask) for lens, mask in zip(lenses, masks, strict=True)]
    depth = np.stack([_measured_depth(reconstruction, prepared, view, lenses[view]) for view in range(count)])
    depth = np.where(np.stack([mask.numpy() for mask in use]) > 0, depth, 0)
    verified = tuple((reconstruction.verified & (depth > 0).any((1, 2))).tolist())
    unit = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    c2w = np.array(cameras.c2w)
    c2w[:, :3, 3] /= unit
    views = prepared.views
    rgb = [lens.colours(picture) for lens, picture in zip(lenses, views.rgb, strict=True)]
    return Study(
        reconstruction.image_names,
        torch.stack(rgb),
        torch.stack(use),
        views.portrait,
        torch.from_numpy(c2w).float(),
        torch.from_numpy(K[:, 0, 0] / width).float(),
        torch.from_numpy(depth / unit).float(),
        verified,
    )


def _measured_depth(
    reconstruction: Reconstruction, prepared: Prepared, view: int, lens: _Straightener
) -> Float[np.ndarray, "H W"]:
    """Depth of a stored view: what stereo measured, else what the sparse points near a pixel say, else 0."""
    K, w2c = reconstruction.cameras.K[view], reconstruction.cameras.w2c[view]
    view_from_photo = lens.K @ np.linalg.inv(K)
    sparse = sparse_depth(reconstruction.tracks, view, w2c, view_from_photo, lens.seen.shape[:2])
    depth = known_depth(measured_alone(reconstruction.depth_maps[view]), sparse, K, view_from_photo)
    return depth.T if lens.portrait else depth


@dataclass(frozen=True, slots=True, eq=False)
class _Straightener:
    """A stored view as a camera without distortion, with square pixels and a central principal point would see it.

    Attributes:
        portrait: the view is stored transposed.
        K: that camera, in upright pixels of the view.
        seen: where the view has each of its pixels, in the view's own upright pixels.
    """

    portrait: bool
    K: Float[np.ndarray, "3 3"]
    seen: Float[np.ndarray, "h w 2"]

    @staticmethod
    def of(prepared: Prepared, view: int, K: Float[np.ndarray, "3 3"], k1: float) -> _Straightener:
        height, width = prepared.views.rgb.shape[2:]
        portrait = bool(prepared.views.portrait[view])
        size = (width, height) if portrait else (height, width)
        straight = intrinsics(float(K[0, 0]), size)
        plane = normalise(straight, pixel_grid(*size))
        return _Straightener(portrait, straight, denormalise(K, distort(plane, k1)))

    def colours(self, stored: Tensor) -> Tensor:
        """The picture (3, H, W) of that camera, bilinear."""
        if np.abs(self.seen - pixel_grid(*self.seen.shape[:2])).max() < NEGLIGIBLE_PX:
            return stored
        upright = stored.transpose(1, 2) if self.portrait else stored
        found = sample_colours(upright, self.seen / np.array([upright.shape[2], upright.shape[1]]))
        return (found.transpose(1, 2) if self.portrait else found).contiguous()

    def mask(self, stored: Tensor) -> Tensor:
        """The mask (H, W) of that camera, by the nearest pixel; 0 outside of the view."""
        upright = (stored.T if self.portrait else stored).numpy()
        found = torch.from_numpy(values_at(upright, self.seen))
        return (found.T if self.portrait else found).contiguous()
