"""What to do for one scene, and what came of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flarecli.errors import InputError, OutputExists, PartialResult, WeightsError

Progress = Callable[[str, int, int], None]
"""Called as on_progress(stage, done, total); total is 0 where it is not known."""

DEFAULT_EXPORTS = ("colmap", "points", "gaussians", "mesh", "depth", "transforms")

# How the work is done rather than what comes of it. Photos, masks and weights are told apart by their content, the
# fraction that must be registered is asked of a finished scene too.
_NOT_DECISIVE = frozenset(
    ("sources", "masks", "weights", "device", "max_memory", "min_registered", "strict", "license_policy", "offline")
)
_FORMATS = ("exports", "mesh", "depth_exr", "colmap_text")
_WORDS = {"input": "photos or masks", "exports": "export formats"}


@dataclass(frozen=True, kw_only=True)
class SceneJob:
    """What to do for one scene; the command line's options are these fields.

    Attributes:
        sources: photos as folders, files, globs, or a text file with one path per line.
        output: folder to write.
        model: name of a row of ``flarecli.model.config.MODELS``.
        weights: weights file; None takes the shipped or downloaded one.
        device: auto, cpu, cuda, cuda:N or mps.
        max_memory: bytes the network may use; None takes half of what is free.
        seed: seed of every random choice.
        preset: fast, balanced or best.
        masks: folder with one mask per photo (black or zero = ignore).
        poses: known poses as a COLMAP model or transforms.json; they are kept as they are.
        intrinsics: known intrinsics as a COLMAP model, transforms.json or "35mm=28"; "exif" trusts the photos' own.
        shared_camera: which photos share one camera: none, folder, all, or auto (same camera model, size and focal).
        refine: auto verifies and refines, ba only adjusts the network's cameras, none keeps the network's answer.
        fit_poses: fit the network's cameras to what its Gaussians look like in the photos, before any refinement; auto
            does so for networks without a pose head.
        exports: names of ``flarecli.export.EXPORTERS``.
        mesh: how the mesh is made; none leaves it out.
        depth_exr: also write depth as EXR.
        colmap_text: also write the COLMAP model as text.
        min_registered: fraction of the photos that need a verified camera (without refinement: a camera); fewer is
            exit code 6.
        strict: a broken photo is an error instead of a line in the report.
        overwrite: replace an existing output of ours; together with ``resume`` only what was made from something else.
        resume: keep a finished output that was made from the same input and options, refuse to replace one that was
            not, and make anew what is damaged.
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
    fit_poses: Literal["auto", "on", "off"] = "auto"
    exports: tuple[str, ...] = DEFAULT_EXPORTS
    mesh: Literal["tsdf", "poisson", "none"] = "tsdf"
    depth_exr: bool = False
    colmap_text: bool = False
    min_registered: float = 0.0
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    license_policy: Literal["any", "commercial"] = "any"
    offline: bool = False

    def options(self) -> dict[str, Any]:
        """What was asked for, as the manifest gives it back when it is read."""
        values = dataclasses.asdict(self)
        for name in ("output", "overwrite", "resume"):
            del values[name]
        return json.loads(json.dumps(values, default=os.fspath))

    def formats(self) -> list[str]:
        """Names of the exporters to run."""
        return _formats(self.options())

    def inputs(self, fingerprint: str) -> dict[str, Any]:
        """What tells, in the manifest, which files were read; weights have a checksum of their own there.

        Args:
            fingerprint: of the photos and masks.

        Raises:
            InputError: a file can't be read, or a folder holds no COLMAP model.
        """
        from flarecli.export.colmap_raw import find_model
        from flarecli.model.digests import content_sha256

        given = {}
        for name, told in (("poses", self.poses), ("intrinsics", self.intrinsics)):
            path = None if told is None else Path(told)
            if path is not None and path.exists():
                # Beside a model may lie all its photos, which nobody reads here.
                model = find_model(path)[0] if path.is_dir() else path
                try:
                    given[name] = content_sha256(model)
                except WeightsError as error:
                    raise InputError(error.message, error.hint) from error
        return {"input": fingerprint, "given": given}

    def finished(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The manifest of an existing, undamaged output that was made from the same input with the same options.

        Only what decides the result counts, and of files only what they hold, not how they were named.

        Args:
            inputs: of :meth:`inputs`.

        Returns:
            The manifest, or None where there is no output of ours, a damaged one, or another that may be replaced.

        Raises:
            OutputExists: an undamaged output, not to be overwritten, was made from something else; it says what.
            WeightsError: the job names a weights file that does not exist.
        """
        from flarecli.export.manifest import MANIFEST_NAME, file_problems, read_manifest

        if not (self.output / MANIFEST_NAME).is_file():
            return None
        try:
            manifest = read_manifest(self.output)
        except InputError:
            return None  # not readable as ours: it will be refused or replaced by the rules for outputs
        if file_problems(self.output, manifest):
            return None
        made, asked = _decisive(manifest["options"]), _decisive({**self.options(), **inputs})
        differing = [name for name in {**asked, **made} if made.get(name) != asked.get(name)]
        weights = self._weights_sha256()
        if "model" not in differing and weights not in (None, manifest["model"].get("weights_sha256")):
            differing.append("weights")
        if differing and self.overwrite:
            return None
        if differing:
            words = ", ".join(_WORDS.get(name, name.replace("_", "-")) for name in differing)
            raise OutputExists(
                f"{self.output} holds a finished scene, made with other {words}",
                "--overwrite makes it anew, or choose another -o",
            )
        return manifest

    def _weights_sha256(self) -> str | None:
        """Of the weights that this job would load; None where they are not on this machine."""
        from flarecli.model.config import find_model
        from flarecli.model.digests import remembered_sha256
        from flarecli.model.hub import locate

        path = locate(find_model(self.model), self.weights)
        return None if path is None else remembered_sha256(path)

    def exit_code(self, manifest: Mapping[str, Any]) -> int:
        """0, or 6 where fewer photos than asked for have a verified camera."""
        photos = manifest["photos"]
        verified = sum(photo["status"] == "verified" for photo in photos)
        good = verified if self.refine != "none" else sum(photo["status"] != "dropped" for photo in photos)
        # As decimals 0.28 of 25 photos are 7, as binary numbers a little more.
        return 0 if good >= self.min_registered * len(photos) - 1e-9 else PartialResult.exit_code


def _decisive(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of options as a manifest holds them, those that decide the result; files by their content."""
    values = {name: value for name, value in options.items() if name not in {*_NOT_DECISIVE, *_FORMATS, "given"}}
    try:
        values["exports"] = sorted(set(_formats(options)))
    except (KeyError, TypeError):  # somebody changed the manifest: like no other
        values["exports"] = None
    given = options.get("given")
    return values | (given if isinstance(given, dict) else {})


def _formats(options: Mapping[str, Any]) -> list[str]:
    mesh = {"tsdf": ["mesh"], "poisson": ["mesh-poisson"], "none": []}[options["mesh"]]
    names = [name for export in options["exports"] for name in (mesh if export == "mesh" else [export])]
    if options["depth_exr"] and "depth-exr" not in names:
        names.append("depth-exr")
    if options["colmap_text"] and "colmap-text" not in names:
        names.append("colmap-text")
    return names


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
