"""Where weights files are, how they get there, and what their licences allow; torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flarecli.errors import InputError, WeightsError
from flarecli.model.config import MODELS
from flarecli.model.digests import file_sha256, read_json, user_cache, write_json
from flarecli.model.spec import ModelSpec, WeightsSpec

LicencePolicy = Literal["any", "commercial"]


@dataclass(frozen=True, slots=True)
class WeightsStatus:
    """One line of `flare weights list`.

    Attributes:
        spec: the model.
        path: its weights file, or None where there is none on this machine.
        place: where it was found: explicit, FLARE_WEIGHTS, checkout, cache, or empty.
        size_bytes: size on disk, or the published size.
    """

    spec: ModelSpec
    path: Path | None
    place: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Verification:
    """A weights file that was read in full.

    Attributes:
        path: the file.
        sha256: checksum of its content.
        expected_sha256: what it was compared with, or None where no checksum is known.
    """

    path: Path
    sha256: str
    expected_sha256: str | None


def weights_of(spec: ModelSpec) -> WeightsSpec:
    """The weights of a model.

    Raises:
        InputError: the model has none.
    """
    if spec.weights is None:
        raise InputError(f"model {spec.name} has no weights file", "it is a test of the program; choose another model")
    return spec.weights


def weights_status() -> list[WeightsStatus]:
    """All models that users see, with their weights files on this machine."""
    rows = []
    for spec in MODELS.values():
        if spec.hidden or spec.weights is None:
            continue
        found = _find(spec, spec.weights)
        size = spec.weights.size_bytes if found is None else found[0].stat().st_size
        rows.append(WeightsStatus(spec, found[0] if found else None, found[1] if found else "", size))
    return rows


def locate(spec: ModelSpec, explicit: Path | None = None) -> Path | None:
    """The weights file of a model on this machine, or None.

    Looked up in order: ``explicit``, ``$FLARE_WEIGHTS`` (a file, or a folder that holds it), the checkout's
    ``weights/``, the user's cache. A converted safetensors file beside the published name is preferred.

    Raises:
        WeightsError: ``explicit`` or ``$FLARE_WEIGHTS`` names something that does not exist.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise WeightsError(f"{explicit}: no such weights file", "check --weights")
        return explicit
    found = None if spec.weights is None else _find(spec, spec.weights)
    return None if found is None else found[0]


def pull_hint(spec: ModelSpec) -> str:
    """What a user does who lacks the weights of a model."""
    if spec.weights is not None and spec.weights.hub_repo is None:
        return f"restore weights/{spec.weights.filename} of the checkout, or give the file with --weights"
    return f"flare weights pull {spec.name}"


def download_folder(spec: ModelSpec) -> Path:
    """Folder of the user's cache for the weights of one model."""
    return user_cache() / "weights" / spec.name


def origin_path(weights_path: Path) -> Path:
    """Note beside a downloaded file: repository, commit and checksum."""
    return weights_path.with_name(f"{weights_path.name}.origin.json")


def verify(path: Path, spec: ModelSpec) -> Verification:
    """Read a weights file in full and compare its checksum with the published or the downloaded one.

    Raises:
        WeightsError: the checksum is another one, or the file can't be read.
    """
    expected = weights_of(spec).sha256
    if expected is None:
        noted = read_json(origin_path(path)).get("sha256")
        expected = noted if isinstance(noted, str) else None
    digest = file_sha256(path)
    if expected is not None and digest != expected:
        message = f"{path}: checksum {digest[:12]}... instead of {expected[:12]}...; the file is damaged or another one"
        raise WeightsError(message, f"remove it and run: {pull_hint(spec)}")
    return Verification(path, digest, expected)


def licence_check(spec: ModelSpec, policy: LicencePolicy) -> None:
    """Refuse weights that a policy does not allow.

    Raises:
        WeightsError: the policy is ``commercial`` and the licence forbids commercial use.
    """
    weights = spec.weights
    if policy == "commercial" and weights is not None and not weights.commercial:
        allowed = [row.name for row in MODELS.values() if not row.hidden and row.weights and row.weights.commercial]
        message = f"the weights of {spec.name} are {weights.licence}, which forbids commercial use"
        raise WeightsError(message, f"use --model {' or '.join(allowed)}, or --license-policy any")


def licence_notice(spec: ModelSpec) -> str:
    """What a user should know of the licence of the weights; one line."""
    weights = weights_of(spec)
    use = "commercial use is allowed" if weights.commercial else "no commercial use"
    return f"weights of {spec.name}: {weights.licence} ({use}); {weights.source}"


def first_use_notice(spec: ModelSpec) -> str | None:
    """The licence notice on the first call for a model on this machine, afterwards None."""
    if spec.weights is None:
        return None
    marker = user_cache() / "licences-shown.json"
    shown = read_json(marker)
    if shown.get(spec.name) == spec.weights.licence:
        return None
    write_json(marker, {**shown, spec.name: spec.weights.licence})
    return licence_notice(spec)


def _find(spec: ModelSpec, weights: WeightsSpec) -> tuple[Path, str] | None:
    names = dict.fromkeys([Path(weights.filename).with_suffix(".safetensors").name, weights.filename])
    places: list[tuple[Path, str]] = []
    named = os.environ.get("FLARE_WEIGHTS")
    if named:
        path = Path(named).expanduser()
        if _is_file(path):
            return path, "FLARE_WEIGHTS"
        if not path.is_dir():
            raise WeightsError(f"FLARE_WEIGHTS names {path}, which does not exist", "correct or unset FLARE_WEIGHTS")
        places.append((path, "FLARE_WEIGHTS"))
    places += [(_checkout_folder(), "checkout"), (download_folder(spec), "cache")]
    for folder, place in places:
        for name in names:
            if _is_file(folder / name):
                return folder / name, place
    return None


def _is_file(path: Path) -> bool:
    """Whether a file is there and can be seen; a folder without rights is no error, for others may hold the file."""
    try:
        return path.is_file()
    except OSError:
        return False


def _checkout_folder() -> Path:
    return Path(__file__).parents[2] / "weights"
