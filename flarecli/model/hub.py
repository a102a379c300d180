"""Where weights files are, how they get there, and what their licences allow; torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flarecli.errors import InputError, WeightsError
from flarecli.model.config import MODELS
from flarecli.model.digests import read_json, user_cache, write_json
from flarecli.model.spec import ModelSpec, WeightsSpec

LicencePolicy = Literal["any", "commercial"]

EXPLICIT, NAMED, PACKAGE, CHECKOUT, CACHE = "explicit", "FLARE_WEIGHTS", "package", "checkout", "cache"
"""Places where weights are found."""


@dataclass(frozen=True, slots=True)
class WeightsStatus:
    """One line of `flare weights list`.

    Attributes:
        spec: the model.
        path: its weights file, or None where there is none on this machine.
        place: where it was found: FLARE_WEIGHTS, package, checkout, cache, or empty.
        size_bytes: size on disk, or the published size.
    """

    spec: ModelSpec
    path: Path | None
    place: str
    size_bytes: int


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
        found = find(spec)
        size = spec.weights.size_bytes if found is None else found[0].stat().st_size
        rows.append(WeightsStatus(spec, found[0] if found else None, found[1] if found else "", size))
    return rows


def find(spec: ModelSpec, explicit: Path | None = None) -> tuple[Path, str] | None:
    """The weights file of a model on this machine and its place, or None.

    Looked up in order: ``explicit``; ``$FLARE_WEIGHTS``, a folder that holds it, or a file whose header or else name is
    that of the model; the installed package; the checkout's ``weights/``; the user's cache. A converted safetensors
    file beside the published name is preferred.

    Raises:
        WeightsError: ``explicit`` or ``$FLARE_WEIGHTS`` names something that does not exist, or ``$FLARE_WEIGHTS`` a
            file of no model.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise WeightsError(f"{explicit}: no such weights file", "check --weights")
        return explicit, EXPLICIT
    if spec.weights is None:
        return None
    return _find_named(spec, spec.weights) or find_kept(spec)


def locate(spec: ModelSpec, explicit: Path | None = None) -> Path | None:
    """The weights file of a model on this machine, or None; as :func:`find`."""
    found = find(spec, explicit)
    return None if found is None else found[0]


def find_kept(spec: ModelSpec) -> tuple[Path, str] | None:
    """The same among the files of the installed package, of the checkout and of the user's cache."""
    weights = weights_of(spec)
    places = ((_package_folder(), PACKAGE), (_checkout_folder(), CHECKOUT), (download_folder(spec), CACHE))
    for folder, place in places:
        if path := _in_folder(folder, weights):
            return path, place
    return None


def read_header(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says; empty for files of other kinds and damaged ones."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def pull_hint(spec: ModelSpec) -> str:
    """What a user does who lacks the weights of a model."""
    if spec.weights is not None and spec.weights.hub_repo is None:
        restore = f"restore weights/{spec.weights.filename} of the checkout or install flarecli again"
        return f"{restore}, or give the file with --weights"
    return f"flare weights pull {spec.name}"


def download_folder(spec: ModelSpec) -> Path:
    """Folder of the user's cache for the weights of one model."""
    return user_cache() / "weights" / spec.name


def origin_path(weights_path: Path) -> Path:
    """Note beside a downloaded file: repository, commit and checksum."""
    return weights_path.with_name(f"{weights_path.name}.origin.json")


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


def _find_named(spec: ModelSpec, weights: WeightsSpec) -> tuple[Path, str] | None:
    named = os.environ.get("FLARE_WEIGHTS")
    if not named:
        return None
    path = Path(named).expanduser()
    if _is_file(path):
        return (path, NAMED) if _model_of(path) == spec.name else None
    if not path.is_dir():
        raise WeightsError(f"FLARE_WEIGHTS names {path}, which does not exist", "correct or unset FLARE_WEIGHTS")
    found = _in_folder(path, weights)
    return None if found is None else (found, NAMED)


def _model_of(path: Path) -> str:
    stated = read_header(path).get("model")
    if stated in MODELS:
        return stated
    for spec in MODELS.values():
        if spec.weights is not None and path.name in _names(spec.weights):
            return spec.name
    message = f"FLARE_WEIGHTS names {path}, and neither its name nor a header says of which model it is"
    raise WeightsError(
        message, "unset FLARE_WEIGHTS and give the file with --weights, or rename it as it was published"
    )


def _names(weights: WeightsSpec) -> tuple[str, ...]:
    return Path(weights.filename).with_suffix(".safetensors").name, weights.filename


def _in_folder(folder: Path, weights: WeightsSpec) -> Path | None:
    return next((folder / name for name in _names(weights) if _is_file(folder / name)), None)


def _is_file(path: Path) -> bool:
    """Whether a file is there and can be seen; a folder without rights is no error, for others may hold the file."""
    try:
        return path.is_file()
    except OSError:
        return False


def _package_folder() -> Path:
    """Where a built package has the shipped weights; a checkout and an editable install have none there."""
    return Path(__file__).parents[1] / "weights"


def _checkout_folder() -> Path:
    return Path(__file__).parents[2] / "weights"
