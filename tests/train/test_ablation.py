"""The script behind the ablation table, as small as it gets."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall

SCRIPT = Path(__file__).parents[2] / "benchmarks/ablation.py"


@pytest.fixture
def ablation(monkeypatch):
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablation", module)  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_row_is_trained_measured_and_printed_once(ablation, monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "textures").mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "textures" / f"{number}.png")
    save_file(FlareSmall(SIZES["tiny"]).state_dict(), tmp_path / "trained.safetensors")
    options = ["--size", "tiny", "--shards", 1, "--scenes", 4, "--held-out", 4, "--steps", 1, "--pairs", 2]
    command = ["ablation.py", tmp_path / "out", "--textures", tmp_path / "textures"]
    command += ["--start", tmp_path / "trained.safetensors", *options]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    ablation.main()
    printed = capsys.readouterr().out
    rows = dict(line.strip("| ").split(" | ", 1) for line in printed.splitlines()[2:])
    assert list(rows) == list(ablation.VARIANTS)
    assert rows["direct"].split(" | ")[5:8] == ["-", "-", "-"]  # nothing of stage 2 is trained
    assert rows["correspondence"].split(" | ")[5:11] == ["-"] * 6
    results = {name: json.loads((tmp_path / "out" / f"{name}-0/result.json").read_text()) for name in rows}
    assert results["cascade"]["errors"] != results["direct"]["errors"]
    ablation.main()  # from the results that are there
    assert capsys.readouterr().out == printed


def test_only_stage_1_is_taken_from_the_trained_network(ablation, tmp_path):
    trained = FlareSmall(SIZES["tiny"])
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(7.0)
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    options = ablation.argparse.Namespace(folder=tmp_path, start=tmp_path / "trained.safetensors", size="tiny")
    start = load_file(ablation.stage_1_of(options, 3))
    taken = {name for name, tensor in start.items() if bool((tensor == 7).all())}
    network = FlareSmall(SIZES["tiny"])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(7.0 if name in taken else torch.nan)
        first = network(torch.rand(1, 2, 3, 24, 32), torch.zeros(2, dtype=torch.bool), stages=1)
        network.load_state_dict(start)
    assert first.coarse[-1].isfinite().all() and first.descriptors.isfinite().all()
    assert not any(name.startswith(("stage2", "stage3", "pose2")) for name in taken)
