"""Sizes that weights state: the shipped size is one of several, and headers are anybody's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flarecli.errors import WeightsError
from flarecli.model.config_small import SIZES
from flarecli.model.stated import stated_config

XS = SIZES["xs"].to_dict()


def _file(path: Path, config: str | None) -> Path:
    save_file({"w": torch.zeros(2)}, path, metadata=None if config is None else {"config": config})
    return path


def test_the_header_says_the_sizes(tmp_path):
    for name in ("tiny", "s", "s-direct"):
        text = json.dumps(SIZES[name].to_dict())
        assert stated_config(_file(tmp_path / f"{name}.safetensors", text)) == SIZES[name]
    assert stated_config(_file(tmp_path / "old.safetensors", None)) is None
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 and so on")
    assert stated_config(tmp_path / "a.pth") is None


def test_a_checkpoint_folder_says_its_row(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"size": "s"}))
    assert stated_config(tmp_path) == SIZES["s"]
    for text in (json.dumps({"size": "huge"}), "[]", "{"):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(WeightsError, match="no training checkpoint"):
            stated_config(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        XS | {"encoder_depth": 10**9},
        XS | {"stem": [24] * 1000 + [128]},
        XS | {"stem": [24, 64, 2**40]},
        XS | {"stem": "24"},
        XS | {"width": 128.0},
        XS | {"width": True},
        XS | {"head_width": 0},
        XS | {"head_width": -32},
        XS | {"head_width": 1},
        XS | {"stem": [3, 64, 128]},
        XS | {"rope_span": float("nan")},
        XS | {"gaussians": "yes"},
        XS | {"conditioning": ["cascade"]},
        XS | {"depth": 3},
        {"stem": [24, 64, 128]},
        [],
        None,
    ],
)
def test_sizes_that_no_network_has_are_refused(tmp_path, config):
    path = _file(tmp_path / "a.safetensors", json.dumps(config))
    with pytest.raises(WeightsError, match=r"a\.safetensors: its header states sizes"):
        stated_config(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_header_that_is_no_json_is_refused(tmp_path, text):
    with pytest.raises(WeightsError, match="its header states sizes"):
        stated_config(_file(tmp_path / "a.safetensors", text))
