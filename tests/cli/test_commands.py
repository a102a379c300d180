"""The other commands, with their real libraries where those are quick."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flarecli import pipeline
from flarecli.cli import export
from flarecli.cli.app import run
from flarecli.errors import ReconstructionError
from flarecli.export import EXPORTERS, write_formats
from flarecli.export.archive import save_scene
from flarecli.export.manifest import build_manifest, write_manifest
from flarecli.job import DEFAULT_EXPORTS, SceneResult
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.train.ship import write_weights
from tests.synthetic import make_scene

VERDICTS = [{"name": "a", "status": "verified"}]


@pytest.fixture
def scene(tmp_path):
    synthetic = make_scene(3)
    folder = tmp_path / "scene"
    synthetic.write_images(folder / "images")
    write_formats(synthetic.reconstruction, folder, ("colmap", "points"))
    save_scene(synthetic.reconstruction, folder)
    write_manifest(folder, build_manifest(synthetic.reconstruction, folder, options={}, timings_s={}))
    return folder


@pytest.fixture
def answer(capsys):
    """Run a command with --json; returns its exit code and its object."""

    def ask(*arguments):
        code = run([*map(str, arguments), "--json"])
        value = json.loads(capsys.readouterr().out)
        assert value["exit_code"] == code
        return code, value

    return ask


@pytest.fixture
def network(monkeypatch):
    def run_scene(job, *, on_progress=None, network=None):
        if not Path(job.sources[0]).is_dir():
            raise ReconstructionError(f"{job.sources[0]} has no photos", "take some")
        (job.output).mkdir(parents=True, exist_ok=True)
        return SceneResult(output=job.output, exit_code=0, manifest={"photos": VERDICTS}, resumed=job.resume)

    monkeypatch.setattr(pipeline, "load_network", lambda job: "network")
    monkeypatch.setattr(pipeline, "run_scene", run_scene)


def test_batch_writes_both_summaries_and_says_that_some_failed(network, answer, tmp_path):
    (tmp_path / "room").mkdir()
    code, value = answer("batch", tmp_path / "room", tmp_path / "absent", "-o", tmp_path / "out", "--seed", 3)
    assert code == 6
    assert [(row["name"], row["status"], row["exit_code"]) for row in value["scenes"]] == [
        ("room", "ok", 0),
        ("absent", "failed", 7),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scenes"] == value["scenes"]
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert [row["hint"] for row in csv.DictReader(file)] == ["", "take some"]


def test_batch_ends_with_0_when_all_are_whole_and_7_when_all_fail(network, capsys, tmp_path):
    (tmp_path / "room").mkdir()
    out = str(tmp_path / "out")
    assert run(["batch", str(tmp_path / "room"), "-o", out, "--resume"]) == 0
    assert run(["batch", str(tmp_path / "no"), str(tmp_path / "neither"), "-o", out]) == 7
    assert run(["batch", str(tmp_path / "no"), str(tmp_path / "room"), "-o", out, "--stop-on-error"]) == 7
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("[1/1] room: ok, ") for line in lines)
    assert any(line.startswith("warning: [1/2] no: failed, ") and "has no photos" in line for line in lines)


@pytest.mark.parametrize("debug", [False, True])
def test_batch_says_warnings_and_where_a_defect_arose(network, monkeypatch, capsys, tmp_path, debug):
    def run_scene(job, *, on_progress=None, network=None):
        if job.output.name == "odd":
            raise ValueError("shapes differ")
        return SceneResult(output=job.output, exit_code=0, manifest={"photos": VERDICTS, "warnings": ["open focal"]})

    monkeypatch.setattr(pipeline, "run_scene", run_scene)
    log = tmp_path / "flare.log"
    line = ["batch", "fine", "odd", "-o", str(tmp_path / "out"), "--log-file", str(log), *["--debug"] * debug]
    assert run(line) == 6
    said = capsys.readouterr().err
    assert "warning: fine: open focal\n" in said and ("in run_scene\n" in said) == debug
    assert "in run_scene\n" in log.read_text() and "fine: open focal" in log.read_text()


def test_export_adds_a_format(scene, answer):
    code, value = answer("export", scene, "--to", "transforms,colmap-text")
    assert code == 0
    assert (scene / "transforms.json").is_file()
    assert set(value["files"]) == {"transforms", "colmap-text"}
    code, value = answer("export", scene, "--to", "transforms")
    assert (code, value["error"]) == (3, "OutputExists")
    assert answer("export", scene, "--to", "transforms", "--overwrite")[0] == 0


SLOW_RENDER_BACK = """
import os, signal, time
from flarecli.cli import export
from flarecli.cli.app import main
def render_back(scene, names):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
export._render_back = render_back
main()
"""


def test_sigterm_after_the_verification_of_an_export_ends_with_130(scene):
    line = [sys.executable, "-c", SLOW_RENDER_BACK, "export", str(scene), "-q", "--to", "colmap", "--overwrite"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


def test_export_of_no_scene_is_code_3(answer, tmp_path):
    assert answer("export", tmp_path, "--to", "points")[0] == 3


def test_inspect_counts_and_tells_problems(scene, answer, capsys):
    code, value = answer("inspect", scene)
    assert (code, value["kind"]) == (0, "scene")
    assert run(["inspect", str(scene / "sparse" / "0")]) == 0
    out = capsys.readouterr().out
    assert "colmap" in out
    assert "images" in out
    assert answer("inspect", scene / "nothing")[0] == 3


def test_inspect_of_wrong_conventions_is_code_7(scene, answer, capsys):
    assert run(["export", str(scene), "--to", "transforms"]) == 0
    content = json.loads((scene / "transforms.json").read_text())
    for frame in content["frames"]:  # OpenCV axes, where nerfstudio wants OpenGL's: the cameras look away
        for row in frame["transform_matrix"][:3]:
            row[1:3] = [-row[1], -row[2]]
    (scene / "transforms.json").write_text(json.dumps(content))
    capsys.readouterr()
    code, value = answer("inspect", scene / "transforms.json")
    assert (code, value["level"]) == (7, "bad")
    assert run(["inspect", str(scene / "transforms.json")]) == 7
    assert "bad" in capsys.readouterr().out


def test_eval_prints_a_table_or_one_object(scene, answer, capsys):
    code, value = answer("eval", scene, scene / "sparse" / "0")
    assert code == 0
    assert (value["photos"], value["AUC@5"], value["missing"]) == (3, 100, [])
    assert value["depth"] is None
    assert run(["eval", str(scene), str(scene / "sparse" / "0")]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert table["AUC@30"].strip() == "100"
    assert table["depth"].strip() == "-"
    assert "points.accuracy_median" in table


def test_eval_of_a_list_of_photos(scene, answer, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("photo_00.png\n\nphoto_02.png\n")
    assert answer("eval", scene, scene, "--photos", names)[1]["photos"] == 2
    assert answer("eval", scene, scene, "--photos", "all")[1]["photos"] == 3
    assert answer("eval", scene, scene, "--photos", tmp_path / "absent.txt")[0] == 3


def test_weights_list_shows_licences(answer, capsys):
    models = {row["model"]: row for row in answer("weights", "list")[1]["models"]}
    assert not models["flare"]["commercial"]
    assert models["flare-small"]["commercial"]
    assert run(["weights", "list"]) == 0
    assert "no commercial use" in capsys.readouterr().out


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("FLARE_WEIGHTS", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("flarecli.model.hub.user_cache", lambda: tmp_path / "cache")


def test_absent_or_forbidden_weights_are_code_5(answer, no_weights):
    code, value = answer("weights", "path", "flare")
    assert (code, value["error"]) == (5, "WeightsError")
    assert "flare weights pull flare" in value["hint"]
    assert answer("weights", "pull", "flare", "--offline")[0] == 5
    code, value = answer("weights", "pull", "flare", "--license-policy", "commercial")
    assert code == 5
    assert "commercial" in value["message"]
    assert answer("weights", "path", "no-such-model")[0] == 3


def test_weights_path_and_verify_of_a_file(answer, no_weights, tmp_path, capsys, monkeypatch):
    mine = tmp_path / "mine.safetensors"
    write_weights(FlareSmall(SIZES["tiny"]).state_dict(), SIZES["tiny"], mine, {"data": "my photos"})
    monkeypatch.setenv("FLARE_WEIGHTS", str(mine))
    assert run(["weights", "path", "flare-small"]) == 0
    assert capsys.readouterr().out.strip() == str(mine)
    assert answer("weights", "path", "flare")[0] == 5  # its header says flare-small
    code, value = answer("weights", "verify", "flare-small")
    assert (code, value["expected_sha256"], value["header"]["data"]) == (0, None, "my photos")
    assert answer("weights", "verify", "flare-small", "--weights", tmp_path / "absent")[0] == 5
    assert run(["weights", "verify", "flare-small", "--weights", str(mine)]) == 0
    told = capsys.readouterr()
    assert f"{mine}: loads as flare-small" in told.out + told.err
    assert value["sha256"] in told.out + told.err and "data: my photos" in told.out + told.err


def test_weights_convert_refuses_what_is_no_checkpoint(answer, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no checkpoint at all")
    assert answer("weights", "convert", "flare", tmp_path / "x.pth", tmp_path / "y.safetensors")[0] == 5


def test_places_for_weights_that_can_not_be_written_are_code_3(answer, no_weights, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("flarecli.model.hub.user_cache", lambda: tmp_path / "file" / "cache")
    code, value = answer("weights", "pull", "flare")
    assert (code, value["error"]) == (3, "OutputError")
    shipped = Path(__file__).parents[2] / "weights" / "flare-small.safetensors"
    code, value = answer("weights", "convert", "flare-small", shipped, tmp_path / "file" / "x.safetensors")
    assert (code, value["error"]) == (3, "OutputError")


def test_formats_lists_every_exporter_and_heic(answer, capsys):
    value = answer("formats")[1]
    assert {row["name"] for row in value["write"]} == set(EXPORTERS)
    assert {row["name"] for row in value["write"] if row["default"]} == set(DEFAULT_EXPORTS)
    assert ".heic" in value["read"]
    assert run(["formats"]) == 0
    assert "sparse/0" in capsys.readouterr().out


def test_doctor_ends_with_3_only_when_something_needed_is_bad(answer, monkeypatch, capsys):
    from flarecli import doctor

    fine, odd = doctor.Check("torch", "ok", "2"), doctor.Check("ray", "warn", "absent", "pip install ray")
    monkeypatch.setattr(doctor, "examine", lambda: [fine, odd])
    code, value = answer("doctor")
    assert code == 0
    assert value["checks"][1] == {"name": "ray", "status": "warn", "value": "absent", "fix": "pip install ray"}
    monkeypatch.setattr(
        doctor, "examine", lambda: [fine, doctor.Check("pycolmap", "bad", "absent", "pip install pycolmap")]
    )
    assert run(["doctor"]) == 3
    assert "pip install pycolmap" in capsys.readouterr().out


def test_train_passes_the_file_and_only_a_given_time_on(monkeypatch, answer, tmp_path):
    from flarecli.train import loop

    calls = []

    def train_from_toml(path, on_progress=None, **overrides):
        calls.append((path, overrides))
        return tmp_path / "checkpoint"

    monkeypatch.setattr(loop, "train_from_toml", train_from_toml)
    value = answer("train", "--config", "run.toml")[1]
    assert value["checkpoint"] == str(tmp_path / "checkpoint")
    assert value["weights"] == str(tmp_path / "flare-small.safetensors")
    answer("train", "--config", "run.toml", "--minutes", "1.5")
    assert calls == [(Path("run.toml"), {}), (Path("run.toml"), {"minutes": 1.5})]


def test_train_without_its_file_is_code_3(answer, tmp_path):
    assert answer("train", "--config", tmp_path / "absent.toml")[0] == 3


def test_gaussians_are_written_without_torch_and_the_comparison_is_left_out(scene, answer, monkeypatch, caplog):
    monkeypatch.setattr(export, "find_spec", lambda name: None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "flarecli.appearance.render_back", None)
    code, value = answer("export", scene, "--to", "gaussians,points", "--overwrite")
    assert code == 0, value
    assert (scene / "gaussians.ply").is_file()
    assert value["render_back"] == {} and "torch is not installed" in caplog.text
