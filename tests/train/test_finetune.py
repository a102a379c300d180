"""The shipped network trained further on a scene of the user."""

from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from flarecli.cli.app import app
from flarecli.errors import InputError
from flarecli.export.archive import save_scene
from flarecli.model.loading import load_model
from flarecli.train.finetune import fine_tune
from tests.synthetic import make_scene

SHIPPED = Path(__file__).parents[2] / "weights" / "flare-small.safetensors"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made, folder = make_scene(3, (96, 128), num_tracks=200, depth_scale=0.5), tmp_path_factory.mktemp("scene")
    made.write_images(folder / "images")
    save_scene(made.reconstruction, folder)
    return folder


def test_fine_tuned_weights_are_close_to_the_shipped_ones_and_load(scene, tmp_path):
    made = fine_tune([scene], tmp_path / "out", minutes=5.0, device="cpu", max_steps=2)
    new = load_model("flare-small", weights=made).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    old = load_model("flare-small", weights=SHIPPED).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    moved = {name: float((new[name] - old[name]).norm() / old[name].norm().clamp_min(1e-6)) for name in old}
    assert 0 < moved["stem.coarse.1.weight"] < 0.05
    with safe_open(made, "pt") as file:
        assert file.metadata()["fine_tuned_on"] == scene.name
    with pytest.raises(InputError, match="holds a checkpoint already"):
        fine_tune([scene], tmp_path / "out", minutes=5.0)


def test_the_command_says_what_goes_together(scene, tmp_path):
    run = CliRunner().invoke
    for arguments in ([], [str(scene)], ["--fine-tune", str(scene)], ["--fine-tune", "-o", str(tmp_path)]):
        assert run(app, ["train", *arguments]).exit_code != 0
    done = run(app, ["train", "--fine-tune", str(scene), "-o", str(tmp_path / "out"), "--minutes", "0", "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "flare-small.safetensors").is_file()
