"""Where weights are looked for, what is said about them, and what licences allow."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from flarecli.errors import InputError, WeightsError
from flarecli.model import hub
from flarecli.model.config import MODELS

FLARE, SMALL, TEST = MODELS["flare"], MODELS["flare-small"], MODELS["flare-test"]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("cache", "checkout", "named")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["cache"]))
    monkeypatch.delenv("FLARE_WEIGHTS", raising=False)
    monkeypatch.setattr(hub, "_checkout_folder", lambda: folders["checkout"])
    return {**folders, "cache": hub.download_folder(FLARE)}


def put(folder: Path, name: str = "geometry_pose.pth") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"weights")
    return folder / name


def test_the_nearest_place_wins(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.locate(FLARE) is None
    in_cache = put(places["cache"])
    assert hub.locate(FLARE) == in_cache
    in_checkout = put(places["checkout"])
    assert hub.locate(FLARE) == in_checkout
    monkeypatch.setenv("FLARE_WEIGHTS", str(places["named"]))
    assert hub.locate(FLARE) == in_checkout
    in_named = put(places["named"])
    assert hub.locate(FLARE) == in_named
    explicit = put(tmp_path, "any.name")
    assert hub.locate(FLARE, explicit) == explicit


def test_the_variable_may_name_a_file(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(places["named"], "mine.pth")
    monkeypatch.setenv("FLARE_WEIGHTS", str(path))
    assert hub.locate(FLARE) == path


def test_a_converted_file_is_preferred(places: dict[str, Path]) -> None:
    put(places["cache"])
    converted = put(places["cache"], "geometry_pose.safetensors")
    assert hub.locate(FLARE) == converted


def test_names_that_do_not_exist_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        hub.locate(FLARE, tmp_path / "gone.pth")
    monkeypatch.setenv("FLARE_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="FLARE_WEIGHTS names"):
        hub.locate(FLARE)


def test_status_lists_visible_models(places: dict[str, Path]) -> None:
    put(places["checkout"], "flare-small.safetensors")
    rows = {row.spec.name: row for row in hub.weights_status()}
    assert rows.keys() == {name for name, spec in MODELS.items() if not spec.hidden}
    assert rows["flare"].path is None and rows["flare"].size_bytes > 5e9
    assert (rows["flare-small"].place, rows["flare-small"].size_bytes) == ("checkout", 7)


def test_verify_compares_with_the_published_checksum(places: dict[str, Path]) -> None:
    path = put(places["cache"])
    digest = hashlib.sha256(b"weights").hexdigest()
    assert hub.verify(path, FLARE) == hub.Verification(path, digest, None)
    assert FLARE.weights is not None
    known = replace(FLARE, weights=replace(FLARE.weights, sha256=digest))
    assert hub.verify(path, known).expected_sha256 == digest
    path.write_bytes(b"weighty")
    with pytest.raises(WeightsError, match=r"geometry_pose\.pth: checksum") as caught:
        hub.verify(path, known)
    assert "flare weights pull flare" in caught.value.hint


def test_verify_compares_with_the_checksum_of_the_download(places: dict[str, Path]) -> None:
    path = put(places["cache"])
    hub.write_json(hub.origin_path(path), {"sha256": "0" * 64})
    with pytest.raises(WeightsError, match="instead of 000000000000"):
        hub.verify(path, FLARE)


def test_commercial_policy_refuses_non_commercial_weights() -> None:
    hub.licence_check(FLARE, "any")
    hub.licence_check(SMALL, "commercial")
    hub.licence_check(TEST, "commercial")
    with pytest.raises(WeightsError, match="CC BY-NC-SA") as caught:
        hub.licence_check(FLARE, "commercial")
    assert caught.value.exit_code == 5
    assert "--model flare-small" in caught.value.hint


def test_licence_is_shown_once_per_model() -> None:
    first = hub.first_use_notice(FLARE)
    assert first == hub.licence_notice(FLARE)
    assert "CC BY-NC-SA 4.0" in str(first) and "no commercial use" in str(first)
    assert hub.first_use_notice(FLARE) is None
    assert "commercial use is allowed" in str(hub.first_use_notice(SMALL))
    assert hub.first_use_notice(TEST) is None


def test_a_model_without_weights_says_so() -> None:
    with pytest.raises(InputError, match="flare-test has no weights file"):
        hub.licence_notice(TEST)
