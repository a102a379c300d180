"""`flare train --self-supervised` from photos to a weights file, what it refuses, and how it goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from flarecli.adapt import run as module
from flarecli.adapt.run import AdaptJob, adapt
from flarecli.adapt.state import CHECKPOINT_NAME
from flarecli.cli.app import app
from flarecli.errors import InputError, OutputExists, WeightsError
from flarecli.model.loading import load_model
from tests.adapt.conftest import Exact
from tests.synthetic import make_scene


@pytest.fixture
def studied(exact: Exact, monkeypatch):
    """The study is at hand, and what reconstructions are worth is set by the test."""
    scores: list[float] = []
    monkeypatch.setattr(module, "study_photos", lambda *_, **__: exact.study)
    monkeypatch.setattr(module, "reconstruction_psnr", lambda *_: scores.pop(0))
    return scores


def job(exact: Exact, output, **options) -> AdaptJob:
    return AdaptJob(sources=(str(exact.folder),), output=output, device="cpu", **{"steps": 3, **options})


def weights_of(path):
    return load_model("flare-small", weights=path).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_better_weights_are_written_and_load(exact, studied, tmp_path, monkeypatch):
    looks = iter([10.0, 10.5, 11.0, 10.2, 10.1])
    monkeypatch.setattr(module, "held_out_psnr", lambda *_: next(looks))
    studied += [12.0, 12.5]
    done = adapt(job(exact, tmp_path / "out"))
    assert done["improved"] and done["held_out_psnr_db"] == (12.0, 12.5)
    assert done["best_step"] == 2 and [step for step, _ in done["history"]] == [0, 1, 2, 3]
    assert done["held_out"] == ["02.png"] and done["learned_from"] == ["00.png", "01.png", "03.png", "04.png"]
    shipped, new = weights_of(None), weights_of(tmp_path / "out" / "flare-small.safetensors")
    assert not same(shipped, new)
    with safe_open(tmp_path / "out" / "flare-small.safetensors", "pt") as file:
        assert file.metadata()["adapted_steps"] == "2" and "04.png" in file.metadata()["adapted_to"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["held_out_psnr_db"] for line in lines] == [10.0, 10.5, 11.0, 10.2]
    assert {"render", "own_pixels", "matched_pixels", "descriptor"} <= lines[-1].keys()
    assert not (tmp_path / "out" / CHECKPOINT_NAME).exists()


@pytest.mark.parametrize("case", ["never better along the way", "worse in the end"])
def test_without_a_gain_the_weights_are_those_it_began_with(exact, studied, tmp_path, monkeypatch, case):
    looks = iter([10.0, 9.0, 9.0, 9.0] if "never" in case else [10.0, 11.0, 11.0, 11.0])
    monkeypatch.setattr(module, "held_out_psnr", lambda *_: next(looks))
    studied += [12.0] if "never" in case else [12.0, 11.9]
    done = adapt(job(exact, tmp_path / "out"))
    assert not done["improved"]
    assert done["held_out_psnr_db"] == ((12.0, None) if "never" in case else (12.0, 11.9))
    assert same(weights_of(None), weights_of(tmp_path / "out" / "flare-small.safetensors"))


def test_an_interrupted_run_goes_on_to_the_same_weights(exact, studied, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    looks = {"now": 0.0}

    def better_and_better(*_):
        looks["now"] += 1
        return looks["now"]

    monkeypatch.setattr(module, "held_out_psnr", better_and_better)
    studied += [1.0, 2.0, 1.0, 2.0]
    adapt(job(exact, tmp_path / "straight"))

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "adapting" and done >= 600:
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        adapt(job(exact, cut), stop)
    assert (cut / CHECKPOINT_NAME).exists()
    with pytest.raises(OutputExists, match="cut short"):
        adapt(job(exact, cut))
    with pytest.raises(InputError, match="other options, photos or weights"):
        adapt(job(exact, cut, resume=True, seed=5))
    with pytest.raises(InputError, match="other options, photos or weights"):
        adapt(job(exact, cut, resume=True, intrinsics="35mm=28"))
    other = tmp_path / "other"
    shutil.copytree(exact.folder, other)
    with Image.open(other / "00.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other / "00.png")
    with pytest.raises(InputError, match="other options, photos or weights"):
        adapt(replace(job(exact, cut, resume=True), sources=(str(other),)))
    adapt(job(exact, cut, resume=True))
    assert same(*(weights_of(tmp_path / name / "flare-small.safetensors") for name in ("straight", "cut")))


def test_a_time_limit_ends_the_training(exact, studied, tmp_path):
    studied += [1.0, 2.0]
    done = adapt(job(exact, tmp_path / "out", steps=None, minutes=0.001))
    assert done["steps"] <= 1


def test_bad_input_is_one_clear_error(exact, studied, tmp_path):
    for count, message in ((0, "no usable photos"), (1, "only one usable photo"), (2, "needs 3 photos, not 2")):
        folder = tmp_path / str(count)
        folder.mkdir()
        for name in sorted(each.name for each in exact.folder.iterdir())[:count]:
            shutil.copy(exact.folder / name, folder)
        with pytest.raises(InputError, match=message):
            adapt(AdaptJob(sources=(str(folder),), output=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="broken"):
        adapt(job(exact, tmp_path / "out", weights=broken))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "flare-small.safetensors").write_bytes(b"precious")
    with pytest.raises(OutputExists, match="there already"):
        adapt(job(exact, tmp_path / "full"))
    assert (tmp_path / "full" / "flare-small.safetensors").read_bytes() == b"precious"
    with pytest.raises(InputError, match="holding out every 1"):
        adapt(job(exact, tmp_path / "out", hold_out=1))


def test_too_few_verified_cameras_are_refused(exact, studied, tmp_path, monkeypatch):
    import dataclasses

    unsure = dataclasses.replace(exact.study, verified=(True, True, False, False, False))
    monkeypatch.setattr(module, "study_photos", lambda *_, **__: unsure)
    with pytest.raises(InputError, match="only 2 of 5 photos have cameras that matches verify"):
        adapt(job(exact, tmp_path / "out"))


@pytest.mark.slow
def test_the_command_adapts_to_a_folder_of_photos(tmp_path):
    scene = make_scene(4, (192, 256), arc_deg=16)
    scene.write_images(tmp_path / "photos")
    with Image.open(tmp_path / "photos" / "photo_03.png") as picture:
        picture.crop((56, 0, 200, 192)).save(tmp_path / "photos" / "photo_03.png")  # a portrait one
    made = CliRunner().invoke(
        app,
        ["train", "--self-supervised", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--steps", "2", "--json"],
    )
    assert made.exit_code == 0, made.output
    done = json.loads(made.stdout)
    assert done["command"] == "train" and done["steps"] == 2 and len(done["held_out"]) == 1
    before, after = done["held_out_psnr_db"]
    assert before > 5 and done["improved"] == (after is not None and after > before)
    assert same(weights_of(None), weights_of(Path(done["weights"]))) != done["improved"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--self-supervised"], "--self-supervised needs PHOTOS and --output"),
        (["--self-supervised", "x"], "--self-supervised needs PHOTOS and --output"),
        (["--self-supervised", "--fine-tune", "x", "-o", "y"], "give one of"),
        (["--fine-tune", "x", "-o", "y", "--hold-out", "3"], "are for --self-supervised"),
        ([], "give one of"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(words, message):
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code != 0 and message in str(result.exception)
