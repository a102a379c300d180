"""Weights files of the splat networks: published names, training checkpoints, wrong and absent files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flarecli.errors import WeightsError
from flarecli.model import config
from flarecli.model.config_splat import SplatConfig
from flarecli.model.keys import our_name
from flarecli.model.loading import load_model, network_builder
from tests.model.published import SHARED, published_rows
from tests.model.tiny import SPLAT_CONFIG

TABLES = {"noposplat": "noposplat/noposplat", "spfsplat": "spfsplat/spfsplat", "spfsplatv2": "spfsplat/spfsplatv2"}


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FLARE_WEIGHTS", raising=False)
    for name in (*TABLES, "spfsplat-nointrin"):
        spec = config.MODELS[name]
        assert isinstance(spec.config, SplatConfig)
        sizes = replace(SPLAT_CONFIG, intrinsics=spec.config.intrinsics, pose=spec.config.pose)
        monkeypatch.setitem(config.MODELS, name, replace(spec, config=sizes))


def state_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {key: torch.randn_like(value) for key, value in network_builder(config.MODELS[name])().state_dict().items()}


def published_checkpoint(
    name: str, path: Path, *, prefix: bool = True, more: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A training checkpoint of the tiny network under the published names, unused entries included."""
    table = SHARED / f"{TABLES[name]}.keys.tsv"
    if not table.exists():
        pytest.skip("the reference material is not beside the checkout")
    weights = config.MODELS[name].weights
    assert weights is not None
    ours, theirs = state_of(name), {}
    for row in published_rows(table):
        target = our_name(row["key"], weights.keys.rules)
        if target is None or target in ours:  # layers that the tiny network lacks are left out
            value = torch.zeros(1) if target is None else ours[target]
            theirs[row["key"] if prefix else row["key"].removeprefix("encoder.")] = value
    content = {
        "state_dict": {**theirs, **(more or {})},
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    }
    torch.save(content, path)
    return ours


@pytest.mark.shared
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", [True, False])
def test_training_checkpoints_load_under_their_published_names(name: str, prefix: bool, tmp_path: Path) -> None:
    ours = published_checkpoint(name, tmp_path / "a.ckpt", prefix=prefix)
    model = load_model(name, weights=tmp_path / "a.ckpt")
    assert isinstance(model.network, torch.nn.Module)
    loaded = model.network.state_dict()
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[key], value) for key, value in ours.items())
    assert "CC BY-NC-SA" in model.licence


@pytest.mark.shared
def test_the_checkpoint_without_intrinsics_drops_their_weights(tmp_path: Path) -> None:
    ours = published_checkpoint("spfsplat", tmp_path / "a.ckpt")
    model = load_model("spfsplat-nointrin", weights=tmp_path / "a.ckpt")
    assert isinstance(model.network, torch.nn.Module)
    assert ours.keys() - model.network.state_dict().keys() == {
        "trunk.intrinsics_embed.weight",
        "trunk.intrinsics_embed.bias",
    }


@pytest.mark.shared
@pytest.mark.parametrize("name", TABLES)
def test_only_what_lies_below_the_prefix_is_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"losses.0.scale": torch.ones(1), "trunk.decoder_norm.weight": torch.full((32,), 7.0)}
    ours = published_checkpoint(name, tmp_path / "a.ckpt", more=more)
    model = load_model(name, weights=tmp_path / "a.ckpt")
    assert isinstance(model.network, torch.nn.Module)
    assert all(torch.equal(model.network.state_dict()[key], value) for key, value in ours.items())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.shared
def test_spfsplat_takes_weights_that_it_does_not_know_and_noposplat_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The published programs load one with ``strict=False``, the other with ``strict=True``."""
    more = {"encoder.novelty.weight": torch.ones(1)}
    published_checkpoint("spfsplat", tmp_path / "a.ckpt", more=more)
    load_model("spfsplat", weights=tmp_path / "a.ckpt")
    assert "1 weights left out" in caplog.text and "encoder.novelty.weight" in caplog.text
    published_checkpoint("noposplat", tmp_path / "b.ckpt", more=more)
    with pytest.raises(WeightsError, match=r"1 unknown: encoder\.novelty\.weight"):
        load_model("noposplat", weights=tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ("noposplat", "spfsplat", r"missing: pose_heads\.0"),
        ("spfsplat", "noposplat", r"unknown: pose_heads\.0"),
        ("spfsplat", "spfsplatv2", r"missing: trunk\.pose_token"),
    ],
)
def test_the_weights_of_another_network_are_refused(given: str, wanted: str, message: str, tmp_path: Path) -> None:
    save_file(state_of(given), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(wanted, weights=tmp_path / "a.safetensors")
    assert caught.value.exit_code == 5 and "\n" not in caught.value.message


@pytest.mark.parametrize("name", [*TABLES, "flare-nvs", "noposplat-3view"])
def test_absent_weights_are_named_with_the_way_to_get_them(name: str) -> None:
    weights = config.MODELS[name].weights
    assert weights is not None
    with pytest.raises(WeightsError, match=f"{weights.filename}.*not on this machine") as caught:
        load_model(name)
    assert caught.value.exit_code == 5 and f"flare weights pull {name}" in caught.value.hint
    with pytest.raises(WeightsError, match="forbids commercial use"):
        load_model(name, license_policy="commercial")
