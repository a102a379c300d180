"""Weights files of every layout, and every way in which a file can be wrong."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flarecli.errors import OutputError, OutputExists, WeightsError
from flarecli.model.checkpoints import convert, load_weights
from flarecli.model.keys import KeyMap, KeyRule

CPU = torch.device("cpu")
KEYS = KeyMap(
    (
        KeyRule(r"theirs\.(.+)", r"first.\1"),
        KeyRule(r"alias\.(.+)", r"first.\1"),
        KeyRule(r"dead\..+", None, "never used"),
    )
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.register_buffer("table", torch.arange(5.0) ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(value) for name, value in Toy().state_dict().items()}


def assert_holds(network: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    network = load_weights(Toy, tmp_path / "a.safetensors", CPU)
    assert_holds(network, state)
    assert not network.training


@pytest.mark.parametrize("layout", ["flat", "model", "state_dict", "training", "module", "legacy"])
def test_torch_files(tmp_path: Path, state: dict[str, Tensor], layout: str) -> None:
    path = tmp_path / "a.pth"
    content: dict[str, object] = {
        "flat": state,
        "model": {"model": state},
        "state_dict": {"state_dict": state, "epoch": 3},
        "training": {"model": state, "args": argparse.Namespace(lr=1e-4), "epoch": 3},
        "module": {"model": {f"module.{name}": value for name, value in state.items()}},
        "legacy": state,
    }[layout]
    torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    assert_holds(load_weights(Toy, path, CPU), state)


def test_rules_rename_and_drop(tmp_path: Path, state: dict[str, Tensor]) -> None:
    foreign = {name.replace("first", "theirs"): value for name, value in state.items()}
    save_file({**foreign, "dead.weight": torch.zeros(7)}, tmp_path / "a.safetensors")
    assert_holds(load_weights(Toy, tmp_path / "a.safetensors", CPU, KEYS), state)


def test_two_names_of_one_parameter_must_agree(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    save_file({**state, "alias.bias": state["first.bias"].clone()}, path)
    assert_holds(load_weights(Toy, path, CPU, KEYS), state)
    save_file({**state, "alias.bias": state["first.bias"] + 1}, path)
    with pytest.raises(WeightsError, match=r"a\.safetensors: (alias|first)\.bias differs"):
        load_weights(Toy, path, CPU, KEYS)


def test_half_precision_files_become_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "a.safetensors")
    network = load_weights(Toy, tmp_path / "a.safetensors", CPU)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert_holds(network, {name: value.half().float() for name, value in state.items()})


def test_computed_buffers_are_filled(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    network = load_weights(Toy, tmp_path / "a.safetensors", CPU)
    assert torch.equal(network.get_buffer("table"), torch.arange(5.0) ** 2)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the kernel's list of mapped files")
def test_weights_stay_in_the_mapped_file(tmp_path: Path) -> None:
    path, maps = tmp_path / "a.pth", Path("/proc/self/maps")
    torch.save({"model": nn.Linear(64, 64).state_dict()}, path)
    assert str(path) not in maps.read_text()
    network = load_weights(lambda: nn.Linear(64, 64), path, CPU)
    assert str(path) in maps.read_text()
    assert network(torch.ones(1, 64)).shape == (1, 64)
    del network
    assert str(path) not in maps.read_text()


def test_what_does_not_fit_is_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    del state["second.bias"]
    state["first.weight"] = torch.zeros(4, 5)
    save_file({**state, **{f"extra.{index}": torch.zeros(1) for index in range(7)}}, path)
    with pytest.raises(WeightsError) as caught:
        load_weights(Toy, path, CPU)
    message = caught.value.message
    assert str(path) in message and "\n" not in message
    assert "7 unknown: extra.0, extra.1, extra.2, extra.3, extra.4, ..." in message
    assert "1 missing: second.bias" in message
    assert "first.weight (4, 5) instead of (4, 3)" in message
    assert "extra.5" not in message


def test_whole_numbers_are_no_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({**state, "first.bias": torch.zeros(4, dtype=torch.int64)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"first\.bias"):
        load_weights(Toy, tmp_path / "a.safetensors", CPU)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path, in_zip: bool) -> None:
    marker, path = tmp_path / "executed", tmp_path / "a.pth"
    if in_zip:
        torch.save({"model": {"weight": torch.zeros(1), "x": _Hostile(marker)}}, path)
    else:
        path.write_bytes(pickle.dumps(_Hostile(marker)))
    with pytest.raises(WeightsError, match=r"a\.pth: refused: it holds more than weights") as caught:
        load_weights(Toy, path, CPU)
    assert "weights_only" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert not in_zip or "posix.mkdir" in str(caught.value)
    assert "safetensors" in caught.value.hint
    assert not marker.exists()


def _lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5614000000\n")


def _truncated_zip(path: Path) -> None:
    torch.save({"model": Toy().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-200])


def _truncated_safetensors(path: Path) -> None:
    save_file(Toy().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-10])


def _bad_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b'{"a": 1}')


def _other_objects(path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "note": "hello"}, path)


def _bare_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such weights file"),
        (lambda path: path.write_bytes(b""), "neither safetensors nor a torch checkpoint"),
        (lambda path: path.write_text("<html>not found</html>"), "neither safetensors nor a torch checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100), "damaged"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00"), "damaged|refused"),
        (_lfs, "Git LFS"),
        (_truncated_zip, "damaged"),
        (_truncated_safetensors, "damaged safetensors"),
        (_bad_header, "damaged safetensors"),
        (_other_objects, "not only weights: note"),
        (_bare_tensor, "holds no table of weights"),
        (lambda path: torch.save({"model": {}}, path), "holds no table of weights"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, write: object, message: str) -> None:
    path = tmp_path / "some.weights"
    assert callable(write)
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(Toy, path, CPU)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_convert_keeps_values_and_says_where_they_come_from(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "deep" / "a.safetensors"
    foreign = {name.replace("first", "theirs"): value for name, value in state.items()}
    torch.save({"model": {**foreign, "dead.weight": torch.zeros(2)}}, source)
    convert(source, target, Toy, KEYS, metadata={"model": "toy", "licence": "CC0"})
    written = load_file(target)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert metadata["licence"] == "CC0" and metadata["model"] == "toy"
    assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert_holds(load_weights(Toy, target, CPU, KEYS), state)
    assert [path.name for path in target.parent.iterdir()] == ["a.safetensors"]


def test_convert_refuses_what_is_there_and_what_does_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(state, source)
    target.write_bytes(b"mine")
    with pytest.raises(OutputExists, match=r"a\.safetensors"):
        convert(source, target, Toy)
    assert target.read_bytes() == b"mine"
    convert(source, target, Toy, overwrite=True)
    torch.save({"first.weight": state["first.weight"]}, source)
    with pytest.raises(WeightsError, match="3 missing"):
        convert(source, tmp_path / "b.safetensors", Toy)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("place", ["file/a.safetensors", "folder", "n" * 300, "/proc/a.safetensors"])
def test_convert_to_a_place_that_can_not_be_written(tmp_path: Path, state: dict[str, Tensor], place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(OutputError, match=r"can't be written: .+") as caught:
        convert(tmp_path / "a.pth", tmp_path / place, Toy, overwrite=True)
    assert str(tmp_path / place) in caught.value.message and caught.value.exit_code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
