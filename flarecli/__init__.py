"""flarecli: photos in, COLMAP cameras, Gaussians and meshes out, by a feed-forward network.

The public names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flarecli.export.archive import load_scene as load_scene
    from flarecli.export.archive import save_scene as save_scene
    from flarecli.images.loading import load_photos as load_photos
    from flarecli.job import SceneJob as SceneJob
    from flarecli.pipeline import reconstruct as reconstruct
    from flarecli.pipeline import run_scene as run_scene
    from flarecli.scene.reconstruction import Reconstruction as Reconstruction

_HOME = {
    "load_photos": "flarecli.images.loading",
    "load_scene": "flarecli.export.archive",
    "save_scene": "flarecli.export.archive",
    "reconstruct": "flarecli.pipeline",
    "run_scene": "flarecli.pipeline",
    "SceneJob": "flarecli.job",
    "Reconstruction": "flarecli.scene.reconstruction",
}
__all__ = ["Reconstruction", "SceneJob", "load_photos", "load_scene", "reconstruct", "run_scene", "save_scene"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
