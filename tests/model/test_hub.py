"""Where weights are looked for, what is said about them, and what licences allow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

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


@pytest.mark.parametrize("name", ["geometry_pose.pth", "geometry_pose.safetensors"])
def test_a_file_that_the_variable_names_is_of_the_model_that_its_name_says(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, shipped = put(places["named"], name), put(places["checkout"], "flare-small.safetensors")
    monkeypatch.setenv("FLARE_WEIGHTS", str(path))
    assert hub.find(FLARE) == (path, "FLARE_WEIGHTS")
    assert hub.locate(SMALL) == shipped
    present = {row.spec.name: row.path for row in hub.weights_status() if row.path is not None}
    assert present == {"flare": path, "flare-small": shipped}


def test_its_header_counts_more_than_its_name(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = places["named"] / "geometry_pose.safetensors"
    save_file({"a": np.zeros(1)}, path, metadata={"model": "flare-small"})
    monkeypatch.setenv("FLARE_WEIGHTS", str(path))
    assert hub.locate(SMALL) == path
    assert hub.locate(FLARE) is None
    save_file({"a": np.zeros(1)}, path, metadata={"model": "another program's"})
    assert hub.locate(FLARE) == path


def test_a_file_of_no_model_is_refused_with_the_way_to_use_it(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(places["named"], "mine.pth")
    monkeypatch.setenv("FLARE_WEIGHTS", str(path))
    with pytest.raises(WeightsError, match=r"FLARE_WEIGHTS names .*mine\.pth, and neither") as caught:
        hub.locate(FLARE)
    assert "--weights" in caught.value.hint
    assert hub.locate(FLARE, path) == path


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
