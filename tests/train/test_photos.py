"""Folders of posed photos are looked at before minutes are spent, and measured where the network is."""

import json
from pathlib import Path

import pytest
import torch

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.scene.views import Views
from flarecli.train.photos import check_photos, evaluate_photos
from tests.train.conftest import posed_photos


@pytest.fixture
def folder(tmp_path) -> Path:
    return posed_photos(tmp_path)


def _write(folder: Path, subsets: list) -> None:
    (folder / "subsets.json").write_text(json.dumps({"subsets": subsets}))


def test_a_folder_that_can_be_measured_passes(folder):
    check_photos([folder], 64, 8, (2, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda subsets: subsets[:1], "no subset of 4 photos"),
        (lambda subsets: [*subsets, {"id": "c", "n": 2, "images": ["absent.png", "b.png"]}], "unknown photo"),
        (lambda subsets: [*subsets, {"id": "c"}], "without n or images"),
        (lambda subsets: ["a"], "without n or images"),
    ],
)
def test_a_folder_that_can_not_be_measured_is_named(folder, change, message):
    _write(folder, change(json.loads((folder / "subsets.json").read_text())["subsets"]))
    with pytest.raises(InputError, match=message) as caught:
        check_photos([folder], 64, 8, (2, 4))
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [1]}'])
def test_damaged_cameras_are_named(folder, text):
    (folder / "cameras.json").write_text(text)
    with pytest.raises(InputError, match="no folder of posed photos"):
        check_photos([folder], 64, 8, (2, 4))


def test_photos_go_where_the_network_is(folder, monkeypatch):
    moved, to = [], Views.to
    monkeypatch.setattr(Views, "to", lambda self, device: (moved.append(device), to(self, device))[1])
    evaluate_photos(FlareSmall(SIZES["tiny"]), [folder], 64, 2)
    assert moved == [torch.device("cpu")]
