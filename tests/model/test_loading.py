"""From a model's name to a network that predicts."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from flarecli.errors import InputError, WeightsError
from flarecli.model import config, hub
from flarecli.model.config import MODELS
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import convert_weights, load_model, network_builder
from flarecli.scene.views import Views
from flarecli.train.checkpoint import TrainState, save_checkpoint
from flarecli.train.ship import write_weights
from tests.model.tiny import CONFIG

VIEWS = Views(torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0)), torch.tensor([False, True]))


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FLARE_WEIGHTS", raising=False)
    monkeypatch.setattr(hub, "_checkout_folder", lambda: tmp_path / "checkout")


@pytest.fixture
def tiny_flare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the row of the published model small enough to write to disk."""
    monkeypatch.setitem(config.MODELS, "flare", replace(MODELS["flare"], config=CONFIG))


def test_test_model_is_the_same_every_time_and_leaves_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (load_model("flare-test").network.predict(VIEWS) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.points_global, second.points_global)
    assert load_model("flare-test").weights_sha256 is None


@pytest.mark.usefixtures("tiny_flare")
def test_a_given_file_is_loaded_with_its_checksum_and_licence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = network_builder(config.MODELS["flare"])()
    path = tmp_path / "any.pth"
    torch.save({"model": network.state_dict()}, path)
    with caplog.at_level(logging.INFO, "flarecli"):
        loaded = load_model("flare", weights=path)
        load_model("flare", weights=path)
    assert [record.getMessage() for record in caplog.records] == [hub.licence_notice(loaded.spec)]  # once per machine
    assert loaded.weights_path == path
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.licence == "CC BY-NC-SA 4.0"
    theirs = cast("nn.Module", loaded.network).state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in network.state_dict().items())


def test_missing_weights_name_the_command() -> None:
    with pytest.raises(WeightsError, match=r"geometry_pose\.pth") as caught:
        load_model("flare")
    assert caught.value.hint == "flare weights pull flare"
    assert caught.value.exit_code == 5
    with pytest.raises(WeightsError) as caught:
        load_model("flare", offline=True)
    assert "--weights" in caught.value.hint


def test_missing_shipped_weights_name_the_file() -> None:
    with pytest.raises(WeightsError, match=r"flare-small\.safetensors") as caught:
        load_model("flare-small")
    assert "weights/flare-small.safetensors" in caught.value.hint


def test_policy_comes_before_the_search() -> None:
    with pytest.raises(WeightsError, match="forbids commercial use"):
        load_model("flare", license_policy="commercial")


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="unknown model"):
        load_model("flair")


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="2 unknown: weight, bias"):
        load_model("flare-test", weights=tmp_path / "a.pth")


@pytest.mark.usefixtures("tiny_flare")
def test_converted_weights_predict_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"model": network_builder(config.MODELS["flare"])().state_dict()}, source)
    convert_weights("flare", source, target)
    before, after = (load_model("flare", weights=path).network.predict(VIEWS) for path in (source, target))
    assert torch.equal(before.points_global, after.points_global)
    with safe_open(target, "pt") as file:
        assert file.metadata()["licence"] == "CC BY-NC-SA 4.0"


@pytest.fixture
def tiny_nvs(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    row = replace(MODELS["flare-nvs"], config=CONFIG)
    monkeypatch.setitem(config.MODELS, "flare-nvs", row)
    torch.manual_seed(2)
    return network_builder(row)()


@pytest.mark.usefixtures("tiny_flare")
def test_weights_that_a_published_network_does_not_know_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    state = network_builder(config.MODELS["flare"])().state_dict()
    torch.save({"model": {**state, **{f"extra.{index}": torch.zeros(1) for index in range(7)}}}, path)
    loaded = cast("nn.Module", load_model("flare", weights=path).network).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(path) in warning
    assert "7 weights" in warning and "extra.0, extra.1, extra.2, extra.3, extra.4, ..." in warning
    convert_weights("flare", path, target)
    assert load_file(target).keys() == state.keys()


@pytest.mark.usefixtures("tiny_flare")
def test_weights_that_a_published_network_needs_must_be_there_in_their_shapes(tmp_path: Path) -> None:
    state = network_builder(config.MODELS["flare"])().state_dict()
    state["extra"] = state.pop("encoder.norm.bias")
    state["encoder.norm.weight"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"1 missing: encoder\.norm\.bias; .*encoder\.norm\.weight \(3,\)"):
        load_model("flare", weights=tmp_path / "a.pth")


def test_the_small_network_takes_no_unknown_weights(tmp_path: Path) -> None:
    state = FlareSmall(SIZES["tiny"]).state_dict()
    write_weights({**state, "extra": torch.zeros(1)}, SIZES["tiny"], tmp_path / "a.safetensors", {})
    with pytest.raises(WeightsError, match="1 unknown: extra"):
        load_model("flare-small", weights=tmp_path / "a.safetensors")


@pytest.mark.usefixtures("tiny_flare")
def test_an_absent_decoder_of_the_other_views_is_that_of_the_reference(tmp_path: Path) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    state = network_builder(config.MODELS["flare"])().state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith("pose_stage.source_blocks.")}
    published = {name.replace("pose_stage.reference_blocks", "dec_blocks"): value for name, value in kept.items()}
    assert len(published) < len(state)
    torch.save({"model": published}, path)
    convert_weights("flare", path, target)
    for file in (path, target):
        loaded = cast("nn.Module", load_model("flare", weights=file).network).state_dict()
        for name, value in loaded.items():
            source = name.replace("pose_stage.source_blocks", "pose_stage.reference_blocks")
            assert torch.equal(value, kept[source]), name
    broken = {name: value for name, value in state.items() if not name.startswith("pose_stage.source_blocks.0.")}
    torch.save({"model": broken}, path)
    with pytest.raises(WeightsError, match=r"missing: pose_stage\.source_blocks\.0"):
        load_model("flare", weights=path)


@pytest.mark.parametrize("rows", [24, 72])
def test_harmonics_of_a_lower_degree_are_filled_up_with_zeros(tmp_path: Path, tiny_nvs: nn.Module, rows: int) -> None:
    state = tiny_nvs.state_dict()
    names = ("gaussian_head.colour_detail.weight", "gaussian_head.colour_detail.bias")
    published = {name: value for name, value in state.items() if name not in names}
    for name in names:
        published[name.replace("gaussian_head.colour_detail", "downstream_head4.sh_high_fre")] = state[name][:rows]
    torch.save(published, tmp_path / "NVS.pth")
    loaded = cast("nn.Module", load_model("flare-nvs", weights=tmp_path / "NVS.pth").network).state_dict()
    for name in names:
        assert loaded[name].shape == state[name].shape
        assert torch.equal(loaded[name][:rows], state[name][:rows])
        assert not loaded[name][rows:].any()


def test_more_harmonics_than_the_network_has_are_refused(tmp_path: Path, tiny_nvs: nn.Module) -> None:
    state = {**tiny_nvs.state_dict(), "gaussian_head.colour_detail.bias": torch.zeros(80)}
    torch.save(state, tmp_path / "NVS.pth")
    with pytest.raises(WeightsError, match=r"colour_detail\.bias \(80,\) instead of \(72,\)"):
        load_model("flare-nvs", weights=tmp_path / "NVS.pth")


def test_the_shipped_model_loads_from_half_precision(tmp_path: Path) -> None:
    spec = MODELS["flare-small"]
    state = {name: value.half() for name, value in network_builder(spec)().state_dict().items()}
    (tmp_path / "checkout").mkdir()
    save_file(state, tmp_path / "checkout" / "flare-small.safetensors")
    loaded = load_model("flare-small", license_policy="commercial")
    side = spec.canvas.multiple
    prediction = loaded.network.predict(Views(torch.rand(2, 3, 4 * side, 6 * side), torch.tensor([False, True])))
    assert prediction.points_global.shape == (2, 4 * side, 6 * side, 3)
    assert prediction.points_global.dtype == torch.float32


@pytest.mark.parametrize("size", ["s", "tiny", "xs"])
def test_weights_of_every_size_load_and_predict(tmp_path: Path, size: str) -> None:
    """What `flare train` exports, by its header, and what `flare weights convert` makes of a checkpoint folder."""
    network = FlareSmall(SIZES[size]).eval()
    write_weights(network.state_dict(), SIZES[size], tmp_path / "exported.safetensors", {})
    save_checkpoint(tmp_path / "run", {}, network.state_dict(), TrainState(1, 2, 0.1, 0, size))
    convert_weights("flare-small", tmp_path / "run", tmp_path / "converted.safetensors")
    small, large = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("exported", "converted"))
    assert abs(small - large) < 1000
    views = Views(torch.rand(2, 3, 64, 96), torch.tensor([False, True]))
    expected = network.predict(views)
    for name in ("exported", "converted"):
        loaded = load_model("flare-small", weights=tmp_path / f"{name}.safetensors")
        assert loaded.spec.canvas.multiple == SIZES[size].patch  # photos are prepared for that
        found = loaded.network.predict(views)
        torch.testing.assert_close(found.coarse_c2w, expected.coarse_c2w, rtol=0.02, atol=0.02)
        assert found.gaussians is not None


def test_weights_of_another_size_than_their_header_says_are_refused(tmp_path: Path) -> None:
    write_weights(FlareSmall(SIZES["tiny"]).state_dict(), SIZES["xs"], tmp_path / "a.safetensors", {})
    with pytest.raises(WeightsError, match=r"a\.safetensors: not the weights of this network"):
        load_model("flare-small", weights=tmp_path / "a.safetensors")


def test_a_folder_that_is_no_checkpoint_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no training checkpoint"):
        convert_weights("flare-small", tmp_path, tmp_path / "a.safetensors")
