"""Holding photos out: which ones, and the scene's first Gaussians without them."""

from __future__ import annotations

from collections.abc import Sequence

from flarecli.errors import InputError
from flarecli.export.gaussian_files import first_gaussians
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

DEFAULT_EVERY = 8


def choose_held_out(names: Sequence[str], wanted: int | Sequence[str] | None = None) -> tuple[str, ...]:
    """The photos to hold out.

    Args:
        names: all photos that have a camera.
        wanted: every k-th, starting with the middle one of the first k so that it is no end of a sequence; or names;
            None means every eighth, of fewer photos one.

    Raises:
        InputError: a name that is not there, none left to hold out, or fewer than two photos would stay.
    """
    if wanted is None:
        wanted = min(DEFAULT_EVERY, len(names))
    if isinstance(wanted, int):
        if wanted < 2:
            raise InputError(f"holding out every {wanted}. photo leaves none", "hold out every second one or fewer")
        held = tuple(names[wanted // 2 :: wanted])
    else:
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InputError(f"{unknown[0]} has no camera in this scene", "give names as in the scene's images folder")
        held = tuple(name for name in names if name in set(wanted))
    if not held or len(names) - len(held) < 2:
        raise InputError(
            f"of {len(names)} photos {len(held)} would be held out; one must be and two must stay",
            "give more photos, or another --hold-out",
        )
    return held


def gaussians_without(reconstruction: Reconstruction, held_out: Sequence[str]) -> Gaussians:
    """First Gaussians of all photos but these: those that a network predicted from them, else those of their points.

    The cameras, and the depth maps aligned to them, were found with all photos, and the network saw them all: what is
    held out is appearance and dense geometry.

    Raises:
        InputError: the other photos have no dense points.
    """
    return first_gaussians(reconstruction, [reconstruction.image_names.index(name) for name in held_out])
