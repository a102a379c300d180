"""Whether a weights file is what it is taken for: by its checksum where one is known, else by loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flarecli.errors import WeightsError
from flarecli.model.digests import file_sha256, read_json
from flarecli.model.hub import CACHE, CHECKOUT, PACKAGE, find, origin_path, pull_hint, read_header, weights_of
from flarecli.model.spec import ModelSpec, WeightsSpec


@dataclass(frozen=True, slots=True)
class Verification:
    """A weights file that was read in full.

    Attributes:
        path: the file.
        sha256: checksum of its content.
        expected_sha256: the same checksum where it is a known one, or None: then the file was loaded instead.
        header: what the file says of itself.
    """

    path: Path
    sha256: str
    expected_sha256: str | None
    header: dict[str, str]


def verify(spec: ModelSpec, explicit: Path | None = None) -> Verification:
    """Read the weights file of a model in full and compare its checksum with the published or the downloaded one.

    A file that is neither shipped nor downloaded may be of the user's own training: it must load.

    Args:
        spec: the model.
        explicit: a file instead of the one that is found on this machine.

    Raises:
        WeightsError: there is no file, it can't be read, its checksum is another one, or it does not fit the network.
    """
    weights = weights_of(spec)
    found = find(spec, explicit)
    if found is None:
        raise WeightsError(f"the weights of {spec.name} are not on this machine", pull_hint(spec))
    path, place = found
    digest, expected = file_sha256(path), _expected(path, place, weights)
    if expected is None and digest != weights.sha256:
        from flarecli.model.loading import check_weights

        check_weights(spec, path)
    elif expected not in (None, digest):
        message = f"{path}: checksum {digest[:12]}... instead of {expected[:12]}...; the file is damaged or another one"
        raise WeightsError(message, f"remove it and run: {pull_hint(spec)}" if place == CACHE else pull_hint(spec))
    known = digest in (expected, weights.sha256)
    return Verification(path, digest, digest if known else None, read_header(path))


def _expected(path: Path, place: str, weights: WeightsSpec) -> str | None:
    """The checksum that a file must have, or None for files that users put there."""
    if place in (PACKAGE, CHECKOUT):
        return weights.sha256
    noted = read_json(origin_path(path)).get("sha256") if place == CACHE else None
    return (weights.sha256 or noted) if isinstance(noted, str) else None
