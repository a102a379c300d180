"""One scene from photos to files: what `flare reconstruct`, `flare batch` and the Python API all call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Progress = Callable[[str, int, int], None]
"""Called as on_progress(stage, done, total); total is 0 where it is not known."""

DEFAULT_EXPORTS = ("colmap", "points", "gaussians", "mesh", "depth", "transforms")


@dataclass(frozen=True, kw_only=True)
class SceneJob:
    """Everything that decides the result for one scene; the command line's options are these fields.

    Attributes:
        sources: photos as folders, files, globs, or a text file with one path per line.
        output: folder to write.
        model: name of a row of ``flarecli.model.config.MODELS``.
        weights: weights file; None takes the shipped or downloaded one.
        device: auto, cpu, cuda, cuda:N or mps.
        max_memory: bytes the network may use; None measures what is free.
        seed: seed of every random choice.
        preset: fast, balanced or best.
        masks: folder with one mask per photo (black or zero = ignore).
        poses: known poses as a COLMAP model or transforms.json; they are kept as they are.
        intrinsics: known intrinsics as a COLMAP model, transforms.json or "35mm=28"; "exif" trusts the photos' own.
        shared_camera: which photos share one camera: none, folder, all, or auto (same camera model, size and focal).
        refine: auto verifies and refines, ba only adjusts the network's cameras, none keeps the network's answer.
        exports: names of ``flarecli.export.EXPORTERS``.
        mesh: how the mesh is made.
        depth_exr: also write depth as EXR.
        colmap_text: also write the COLMAP model as text.
        min_registered: fraction of the photos that need a verified camera; fewer is exit code 6.
        strict: a broken photo is an error instead of a line in the report.
        overwrite: replace an existing output of ours.
        resume: keep an existing output that was made from the same input and options.
        license_policy: any, or commercial to refuse non-commercial weights.
        offline: never download.
    """

    sources: tuple[str, ...]
    output: Path
    model: str = "flare-small"
    weights: Path | None = None
    device: str = "auto"
    max_memory: int | None = None
    seed: int = 0
    preset: Literal["fast", "balanced", "best"] = "balanced"
    masks: Path | None = None
    poses: Path | None = None
    intrinsics: str | None = None
    shared_camera: Literal["auto", "none", "folder", "all"] = "auto"
    refine: Literal["auto", "none", "ba"] = "auto"
    exports: tuple[str, ...] = DEFAULT_EXPORTS
    mesh: Literal["tsdf", "poisson"] = "tsdf"
    depth_exr: bool = False
    colmap_text: bool = False
    min_registered: float = 0.0
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    license_policy: Literal["any", "commercial"] = "any"
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class SceneResult:
    """What one job did.

    Attributes:
        output: folder that was written.
        exit_code: 0, or 6 when fewer photos than asked for have verified cameras.
        manifest: the content of flare.json.
        resumed: whether an existing result was kept.
    """

    output: Path
    exit_code: int
    manifest: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False


def run_scene(job: SceneJob, *, on_progress: Progress | None = None, network: Any = None) -> SceneResult:
    """Reconstruct one scene and write it.

    Args:
        job: what to do.
        on_progress: told about stages.
        network: a network that ``load_network`` returned, to be used again; None loads it.

    Raises:
        FlareError: see ``flarecli.errors``; nothing that was there before is lost.
    """
    raise NotImplementedError


def load_network(job: SceneJob) -> Any:
    """Load the network of a job once, for many scenes."""
    raise NotImplementedError


def reconstruct(photos: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> SceneResult:
    """Reconstruct photos into a folder; options are the fields of :class:`SceneJob`."""
    sources = [photos] if isinstance(photos, str | Path) else list(photos)
    return run_scene(SceneJob(sources=tuple(map(str, sources)), output=Path(output), **options))
