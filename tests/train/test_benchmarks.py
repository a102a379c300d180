"""The scripts behind the tables of the model card, as small as they get."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flarecli.inference import predict
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import load_model
from flarecli.scene.views import Prediction
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.targets import make_targets

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _script(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ablation(monkeypatch):
    return _script("ablation", monkeypatch)


@pytest.fixture
def readouts(monkeypatch):
    return _script("readouts", monkeypatch)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "textures").mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "textures" / f"{number}.png")
    return tmp_path / "textures"


def test_every_row_is_trained_measured_and_printed_once(ablation, pictures, monkeypatch, tmp_path, capsys):
    save_file(FlareSmall(SIZES["tiny"]).state_dict(), tmp_path / "trained.safetensors")
    options = ["--size", "tiny", "--shards", 1, "--scenes", 4, "--held-out", 4, "--steps", 1, "--pairs", 2]
    command = ["ablation.py", tmp_path / "out", "--textures", pictures]
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


def test_every_read_out_is_measured_for_every_number_of_views(readouts, pictures, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(readouts, "CANVASES", ((48, 64),))
    command = ["readouts.py", tmp_path / "out", "--textures", pictures, "--scenes", 1, "--views", 2, 3]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    readouts.main()
    printed = capsys.readouterr().out
    rows = dict(line.strip("| ").split(" | ", 1) for line in printed.splitlines()[2:])
    assert list(rows) == [*readouts.WAYS, "focal chosen", "focal solved"]
    errors = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [row["views"] for row in errors] == [2, 3]
    for row, pairs in zip(errors, (1, 3), strict=True):
        assert all(len(row[way]) == pairs for way in readouts.WAYS)
        assert len(row["focal solved"]) == row["views"]
    readouts.main()  # from what is there
    assert capsys.readouterr().out == printed
    assert len((tmp_path / "out/errors.jsonl").read_text().splitlines()) == 2


def test_true_answers_have_no_error_whichever_photo_is_the_reference(readouts, textures, monkeypatch, tmp_path):
    prerender(textures, tmp_path / "held-out", ShardPlan(1, 1, ((216, 288),), seed=1))
    (batch,) = ShardSource.open(tmp_path / "held-out").fixed(1, 3)
    order = [2, 0, 1]
    truth = make_targets(batch.views(torch.tensor([order])))
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, :3, :3], c2w[:, :3, 3] = truth.rotation[0], truth.translation[0]
    sure, alike = torch.full(truth.valid.shape[1:], 2.0), torch.zeros(3, 4, 108, 144)
    answer = Prediction(c2w, c2w, truth.log_focal[0].exp(), truth.local[0], sure, truth.world[0], sure, alike)

    class Knowing:
        def predict(self, views):
            return answer

    monkeypatch.setattr(predict, "reference_first", lambda window, likeness: order)
    model = replace(load_model("flare-small"), network=Knowing())
    found = readouts.measure(model, batch, 0, tmp_path / "photos")
    for way in ("coarse", "refined", "pnp", "procrustes", "chosen"):
        assert found[way].shape == (3, 2)
        assert found[way].max() < 1, way
    assert (found["pairs"] == 180).all()  # nothing matches
    assert found["focal chosen"].max() < 0.03


def test_the_speed_of_a_device_is_measured_part_by_part(pictures, monkeypatch, capsys):
    speed = _script("device_speed", monkeypatch)
    options = ["--textures", pictures, "--device", "cpu", "--size", "tiny", "--long-side", 64, "--images", 8]
    options += ["--texture-size", 8, "--repeat", 1]
    monkeypatch.setattr(sys, "argv", ["device_speed.py", *map(str, options)])
    speed.main()
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu" and report["images_rendered_per_s"] > 0
    assert set(report["predict_ms"]) == {"2", "4", "8"} and min(report["predict_ms"].values()) > 0
    trained = report["pairs_trained_per_s"]
    assert set(trained) == {"as written, stages 1", "as written, stages 3"} and min(trained.values()) > 0
