"""The shipped network trained further on a scene of the user."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from flarecli.cli.app import app
from flarecli.errors import InputError, OutputExists
from flarecli.export.archive import save_scene
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import load_model
from flarecli.train import finetune
from flarecli.train.checkpoint import load_state
from flarecli.train.finetune import FineTuneJob, fine_tune
from flarecli.train.ship import write_weights
from tests.synthetic import make_scene

SHIPPED = Path(__file__).parents[2] / "weights" / "flare-small.safetensors"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made, folder = make_scene(3, (96, 128), num_tracks=200, depth_scale=0.5), tmp_path_factory.mktemp("scene")
    made.write_images(folder / "images")
    save_scene(made.reconstruction, folder)
    return folder


@pytest.fixture
def job(scene, tmp_path) -> FineTuneJob:
    return FineTuneJob(scenes=(scene,), output=tmp_path / "out", steps=2, device="cpu")


@pytest.fixture
def tiny(tmp_path) -> Path:
    write_weights(FlareSmall(SIZES["tiny"]).state_dict(), SIZES["tiny"], tmp_path / "tiny.safetensors", {})
    return tmp_path / "tiny.safetensors"


@pytest.mark.slow
def test_fine_tuned_weights_are_close_to_the_shipped_ones_and_load(scene, job):
    made = fine_tune(job)
    new = load_model("flare-small", weights=made).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    old = load_model("flare-small", weights=SHIPPED).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    moved = {name: float((new[name] - old[name]).norm() / old[name].norm().clamp_min(1e-6)) for name in old}
    assert 0 < moved["stem.coarse.1.weight"] < 0.05
    with safe_open(made, "pt") as file:
        assert file.metadata()["fine_tuned_on"] == scene.name
    with pytest.raises(InputError, match="holds a checkpoint already"):
        fine_tune(job)


@pytest.mark.slow
def test_a_run_goes_on_with_its_shards_and_its_checkpoint(job, tiny, monkeypatch):
    job = replace(job, weights=tiny, resume=True, steps=1)  # where there is nothing yet, it begins
    fine_tune(job)
    monkeypatch.setattr(finetune, "capture_shards", lambda *args, **others: pytest.fail("the shards were there"))
    made = fine_tune(replace(job, steps=2))
    state = load_state(job.output / "checkpoint")
    assert (state.step, state.size) == (2, "tiny")
    loaded = load_model("flare-small", weights=made).network
    assert isinstance(loaded, FlareSmall) and loaded.config == SIZES["tiny"]
    with pytest.raises(InputError, match="other scenes, seed or weights"):
        fine_tune(replace(job, seed=1))


class _Asked(Exception):
    """Ends a run before it begins, with the settings that it was to have."""


@pytest.fixture
def no_training(monkeypatch):
    def run(config, on_progress):
        raise _Asked(config)

    monkeypatch.setattr(finetune, "run", run)


@pytest.mark.usefixtures("no_training")
def test_what_is_asked_for_reaches_the_run_and_threads_stay(job, tiny):
    with pytest.raises(_Asked) as caught:
        fine_tune(replace(job, weights=tiny, seed=3, steps=7))
    (config,) = caught.value.args
    assert (config.seed, config.max_steps, config.device, config.size) == (3, 7, "cpu", "tiny")
    assert config.threads is None and config.minutes >= 1e6


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("resume", [False, True])
def test_nothing_of_the_user_is_deleted(job, tiny, resume):
    shards, job = job.output / "shards", replace(job, weights=tiny, resume=resume)
    shards.mkdir(parents=True)
    (shards / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="was not made by flare train"):
        fine_tune(job)
    assert (shards / "thesis.txt").read_text() == "years of work"
    shards.rename(job.output / "shards.part")
    with pytest.raises(InputError, match=r"shards\.part holds thesis\.txt"):
        fine_tune(job)
    assert (job.output / "shards.part" / "thesis.txt").read_text() == "years of work"
    weights = job.output / "flare-small.safetensors"
    weights.write_text("of another program")
    with pytest.raises(OutputExists, match="not of this run"):
        fine_tune(job)
    assert weights.read_text() == "of another program" and not (job.output / "checkpoint").exists()


@pytest.mark.usefixtures("no_training")
def test_shards_that_were_cut_off_are_made_again(job, tiny, monkeypatch):
    job, rename = replace(job, weights=tiny), Path.rename

    def cut_short(self, target):
        if self.name == "shards.part":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_short)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(job)
    assert not (job.output / "shards").exists()
    with pytest.raises(_Asked):
        fine_tune(job)
    assert (job.output / "shards").is_dir() and not (job.output / "shards.part").exists()


def test_fine_tuning_needs_an_end(job):
    with pytest.raises(InputError, match="needs an end"):
        fine_tune(replace(job, steps=None))


def test_the_command_says_what_goes_together(scene, tmp_path):
    run = CliRunner().invoke
    for arguments in ([], [str(scene)], ["--fine-tune", str(scene)], ["--fine-tune", "-o", str(tmp_path)]):
        assert run(app, ["train", *arguments]).exit_code != 0
    done = run(app, ["train", "--fine-tune", str(scene), "-o", str(tmp_path / "out"), "--minutes", "0", "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "flare-small.safetensors").is_file()


def test_the_command_passes_on_what_a_run_can_do(scene, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(finetune, "fine_tune", lambda job, on_progress: (jobs.append(job), tmp_path / "w")[1])
    command = ["train", "--fine-tune", str(scene), "-o", str(tmp_path), "--json"]
    for options in ([], ["--steps", "3", "--seed", "4", "--device", "cpu", "--resume", "--weights", "a"]):
        done = CliRunner().invoke(app, command + options)
        assert json.loads(done.stdout)["weights"] == str(tmp_path / "w"), done.output
    usual = FineTuneJob(scenes=(scene,), output=tmp_path, minutes=20.0)
    asked = replace(usual, minutes=None, steps=3, seed=4, device="cpu", resume=True, weights=Path("a"))
    assert jobs == [usual, asked]


@pytest.mark.parametrize("option", [["--steps", "1"], ["--seed", "1"], ["--device", "cpu"], ["--resume"]])
def test_a_run_of_a_file_takes_its_settings_from_the_file(option):
    done = CliRunner().invoke(app, ["train", "--config", "run.toml", *option])
    assert done.exit_code != 0 and "--config takes no" in str(done.exception)
