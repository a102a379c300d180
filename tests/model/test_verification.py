"""Which weights files are held against a checksum, and which are loaded instead."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flarecli.errors import WeightsError
from flarecli.model import config, hub
from flarecli.model.config import MODELS
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import network_builder
from flarecli.model.verification import verify
from flarecli.train.ship import write_weights
from tests.model.tiny import CONFIG

SMALL = MODELS["flare-small"]
SHIPPED = Path(__file__).parents[2] / "weights" / "flare-small.safetensors"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FLARE_WEIGHTS", raising=False)
    monkeypatch.setattr(hub, "_checkout_folder", lambda: tmp_path / "checkout")
    monkeypatch.setitem(config.MODELS, "flare", replace(MODELS["flare"], config=CONFIG))
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


@pytest.fixture
def downloaded() -> Path:
    spec = config.MODELS["flare"]
    folder = hub.download_folder(spec)
    folder.mkdir(parents=True)
    torch.save({"model": network_builder(spec)().state_dict()}, folder / "geometry_pose.pth")
    return folder / "geometry_pose.pth"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def own(folder: Path) -> Path:
    path = folder / "flare-small.safetensors"
    return write_weights(FlareSmall(SIZES["tiny"]).state_dict(), SIZES["tiny"], path, {"data": "my photos"})


def test_shipped_weights_have_the_published_checksum(checkout: Path) -> None:
    path = checkout / SHIPPED.name
    path.write_bytes(SHIPPED.read_bytes())
    found = verify(SMALL)
    assert SMALL.weights is not None
    assert (found.path, found.expected_sha256, found.sha256) == (path, SMALL.weights.sha256, sha256(path))
    path.write_bytes(b"weighty")
    with pytest.raises(WeightsError, match=r"flare-small\.safetensors: checksum") as caught:
        verify(SMALL)
    assert "remove" not in caught.value.hint and "restore" in caught.value.hint


@pytest.mark.parametrize("by_variable", [True, False])
def test_weights_of_an_own_training_need_only_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    path = own(tmp_path)
    if by_variable:
        monkeypatch.setenv("FLARE_WEIGHTS", str(path))
    found = verify(SMALL, None if by_variable else path)
    assert (found.path, found.sha256, found.expected_sha256) == (path, sha256(path), None)
    assert found.header["model"] == "flare-small" and found.header["data"] == "my photos"


def test_a_given_file_of_another_network_is_an_error_but_not_to_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"mine\.pth: not the weights of this network") as caught:
        verify(SMALL, path)
    assert "remove" not in caught.value.hint


def test_a_given_copy_of_the_published_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    path.write_bytes(SHIPPED.read_bytes())
    assert verify(SMALL, path).expected_sha256 == sha256(SHIPPED)


def test_a_download_has_the_checksum_that_was_noted_then(downloaded: Path) -> None:
    spec = config.MODELS["flare"]
    hub.write_json(hub.origin_path(downloaded), {"sha256": sha256(downloaded)})
    assert verify(spec).expected_sha256 == sha256(downloaded)
    hub.write_json(hub.origin_path(downloaded), {"sha256": "0" * 64})
    with pytest.raises(WeightsError, match="instead of 000000000000") as caught:
        verify(spec)
    assert caught.value.hint == "remove it and run: flare weights pull flare"


def test_the_published_checksum_comes_before_the_noted_one(downloaded: Path) -> None:
    spec = config.MODELS["flare"]
    assert spec.weights is not None
    known = replace(spec, weights=replace(spec.weights, sha256="1" * 64))
    hub.write_json(hub.origin_path(downloaded), {"sha256": sha256(downloaded)})
    with pytest.raises(WeightsError, match="instead of 111111111111"):
        verify(known)


def test_a_file_that_someone_put_into_the_cache_need_only_load(downloaded: Path) -> None:
    spec = config.MODELS["flare"]
    assert verify(spec).expected_sha256 is None
    downloaded.write_bytes(b"content")
    with pytest.raises(WeightsError, match="neither safetensors nor a torch checkpoint"):
        verify(spec)


def test_absent_weights_are_named_with_the_way_to_get_them() -> None:
    with pytest.raises(WeightsError, match="the weights of flare are not on this machine") as caught:
        verify(config.MODELS["flare"])
    assert caught.value.hint == "flare weights pull flare"
