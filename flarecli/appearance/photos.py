"""The photos of a finished scene at a size for rendering, and pictures of its Gaussians from the same cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flarecli.errors import InputError
from flarecli.render.rasterize import Rendered, render
from flarecli.render.splats import Splats
from flarecli.runtime import resolve_device
from flarecli.scene.reconstruction import Reconstruction

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One photo and its camera, both at the size for rendering.

    Attributes:
        name: of the photo.
        rgb: in [0, 1].
        weight: 1 where the photo counts, 0 where its mask is black.
        w2c: world to camera, OpenCV axes.
        K: intrinsics in pixels of ``rgb``.
    """

    name: str
    rgb: Float[Tensor, "H W 3"]
    weight: Float[Tensor, "H W"]
    w2c: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.rgb.shape[0]), int(self.rgb.shape[1])


def rendering_device(name: str = "auto") -> torch.device:
    """The device that renders: CUDA where it was asked for or is there, else the CPU.

    Raises:
        InputError: as :func:`flarecli.runtime.resolve_device`.
    """
    device = resolve_device(name)
    return device if device.type == "cuda" else torch.device("cpu")


def scaled_size(size_hw: Sequence[int], long_side: int) -> tuple[int, int]:
    """The size with this long side and the same shape; never larger than before."""
    factor = min(1.0, long_side / max(size_hw))
    return max(round(size_hw[0] * factor), 1), max(round(size_hw[1] * factor), 1)


def load_views(
    scene: Path,
    reconstruction: Reconstruction,
    long_side: int,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
    *,
    names: Sequence[str] | None = None,
) -> list[View]:
    """The upright, undistorted photos in the scene's ``images`` folder with their cameras, or only those named.

    Raises:
        InputError: a picture is missing, damaged or not of its camera's size.
    """
    views = []
    cameras = reconstruction.cameras
    for index, name in enumerate(reconstruction.image_names):
        if names is not None and name not in names:
            continue
        height, width = (int(v) for v in cameras.size_hw[index])
        size_hw = scaled_size((height, width), long_side)
        rgb = _read(scene / "images" / name, (height, width), size_hw)
        K = np.diag([size_hw[1] / width, size_hw[0] / height, 1.0]) @ cameras.K[index]
        view = View(
            name,
            torch.tensor(rgb, dtype=torch.float32, device=device) / 255,
            torch.tensor(_mask(scene, name, size_hw), dtype=torch.float32, device=device),
            torch.tensor(cameras.w2c[index], dtype=torch.float32, device=device),
            torch.tensor(K, dtype=torch.float32, device=device),
        )
        views.append(view)
        if on_progress:
            on_progress("photos", index + 1, len(reconstruction))
    return views


def _read(path: Path, expected_hw: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if picture.size != expected_hw[::-1]:
                raise InputError(f"{path} is not of the size of its camera", "reconstruct again with --overwrite")
            picture.draft("RGB", (size_hw[1], size_hw[0]))
            small = picture.convert("RGB").resize((size_hw[1], size_hw[0]), Image.Resampling.BOX)
            return np.asarray(small)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} can't be read: {error}", "the scene's images folder must be complete") from error


def _mask(scene: Path, name: str, size_hw: tuple[int, int]) -> np.ndarray:
    path = scene / "masks" / f"{name}.png"
    if not path.is_file():
        return np.ones(size_hw, np.float32)
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L").resize((size_hw[1], size_hw[0]), Image.Resampling.BOX)) > 127
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(
            f"{path} can't be read: {error}", "give a scene folder whose images are whole, or reconstruct it again"
        ) from error


def show(splats: Splats, view: View, *, antialiased: bool = False, with_normals: bool = False) -> Rendered:
    """The Gaussians as the camera of a photo sees them."""
    return render(
        splats, view.w2c[None], view.K[None], view.size_hw, antialiased=antialiased, with_normals=with_normals
    )
