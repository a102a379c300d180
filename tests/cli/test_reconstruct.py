"""`flare reconstruct`: options become exactly one job, progress and results go where they belong."""

import json
import logging
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from flarecli import pipeline
from flarecli.cli.app import run
from flarecli.cli.console import Talk
from flarecli.cli.options import SceneOptions, TalkOptions
from flarecli.errors import InputError
from flarecli.job import DEFAULT_EXPORTS, SceneJob, SceneResult

MANIFEST = {
    "photos": [{"name": "a.jpg", "status": "verified"}, {"name": "b.jpg", "status": "dropped", "reason": "no picture"}],
    "confidence": 0.5,
}
QUIET = ["warning: a doubt", "warning: dropped b.jpg: no picture"]


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that commands asked for."""
    asked = []

    def run_scene(job, *, on_progress=None, network=None):
        asked.append(job)
        on_progress("reading photos", 0, 2)
        on_progress("reading photos", 2, 2)
        on_progress("network", 0, 0)
        logging.getLogger("flarecli.model").info("the licence")
        logging.getLogger("flarecli.model").debug("a detail")
        logging.getLogger("flarecli.model").warning("a doubt")
        return SceneResult(output=job.output, exit_code=6 if job.strict else 0, manifest=MANIFEST, resumed=job.resume)

    monkeypatch.setattr(pipeline, "run_scene", run_scene)
    return asked


def test_without_options_the_job_has_the_defaults_of_its_class(jobs):
    assert run(["reconstruct", "photos", "-o", "scene"]) == 0
    assert jobs == [SceneJob(sources=("photos",), output=Path("scene"))]


def test_dropped_photos_are_named_with_their_reason(jobs, monkeypatch, capsys):
    photos = [{"name": f"{i}.jpg", "status": "dropped", "reason": "no picture"} for i in range(12)]
    monkeypatch.setitem(MANIFEST, "photos", photos)
    assert run(["reconstruct", "photos", "-o", "scene", "-q"]) == 0
    said = capsys.readouterr().err
    assert "warning: dropped 0.jpg: no picture" in said and "dropped 2 more photos" in said
    assert "dropped 10.jpg" not in said


def test_every_field_of_the_job_has_an_option():
    named = {each.name for each in fields(SceneOptions)} - {"export"} | {"exports", "sources", "output"}
    assert named == {each.name for each in fields(SceneJob)}


def test_every_option_reaches_its_field(jobs):
    line = """reconstruct a b/*.jpg -o out --model flare --weights w.safetensors --device cuda:1 --max-memory 1.5G
        --seed 9 --preset best --masks m --poses p --intrinsics 35mm=28 --shared-camera folder --refine ba
        --fit-poses off --export colmap,depth --export mesh --export colmap --mesh poisson --depth-exr --colmap-text
        --min-registered 0.9 --strict --overwrite --license-policy commercial --offline"""
    assert run(line.split()) == 6
    assert jobs == [
        SceneJob(
            sources=("a", "b/*.jpg"),
            output=Path("out"),
            model="flare",
            weights=Path("w.safetensors"),
            device="cuda:1",
            max_memory=3 * 2**29,
            seed=9,
            preset="best",
            masks=Path("m"),
            poses=Path("p"),
            intrinsics="35mm=28",
            shared_camera="folder",
            refine="ba",
            fit_poses="off",
            exports=("colmap", "depth", "mesh"),
            mesh="poisson",
            depth_exr=True,
            colmap_text=True,
            min_registered=0.9,
            strict=True,
            overwrite=True,
            license_policy="commercial",
            offline=True,
        )
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--mesh poisson --export colmap", 2),
        ("--mesh none --export mesh", 2),
        ("--mesh none --export colmap,mesh-poisson", 2),
        ("--mesh none", 0),
        ("--mesh none --export colmap", 0),
        ("--mesh poisson", 0),
        ("--mesh poisson --export colmap,mesh", 0),
    ],
)
def test_a_mesh_that_would_not_be_written_is_refused(jobs, capsys, line, code):
    assert run(["reconstruct", "photos", "-o", "scene", *line.split()]) == code
    assert len(jobs) == (code == 0) and ("--mesh" in capsys.readouterr().err) == (code != 0)


def test_default_exports_are_those_of_the_pipeline(jobs):
    run(["reconstruct", "photos", "-o", "scene"])
    assert jobs[0].exports == DEFAULT_EXPORTS


def test_json_holds_the_manifest(jobs, capsys):
    assert run(["reconstruct", "photos", "-o", "scene", "--json", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "command": "reconstruct",
        "exit_code": 0,
        "output": "scene",
        "resumed": True,
        "manifest": MANIFEST,
    }


def test_people_read_stages_and_counts_on_stderr(jobs, capsys):
    run(["reconstruct", "photos", "-o", "scene"])
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1] == "wrote scene (1 verified, 1 dropped)"
    assert [line for line in lines if line.startswith(("reading photos: ", "network: ")) and line.endswith(" s")]
    assert "the licence" in lines
    assert "warning: a doubt" in lines
    assert "a detail" not in lines


def test_quiet_leaves_warnings_and_verbose_adds_details(jobs, capsys):
    run(["reconstruct", "photos", "-o", "scene", "-q"])
    assert capsys.readouterr().err.splitlines() == QUIET
    run(["reconstruct", "photos", "-o", "scene", "-v"])
    assert "a detail" in capsys.readouterr().err.splitlines()


def test_the_log_file_has_everything_also_when_quiet(jobs, tmp_path, capsys):
    log = tmp_path / "flare.log"
    run(["reconstruct", "photos", "-o", "scene", "-q", "--log-file", str(log)])
    assert capsys.readouterr().err.splitlines() == QUIET
    text = log.read_text()
    for expected in ("INFO flarecli.model: the licence", "DEBUG flarecli.model: a detail", "wrote scene"):
        assert expected in text


LOGGED = [
    (InputError("photo.jpg is broken", "remove it"), 3, "ERROR flarecli: error: photo.jpg is broken\nhint: remove it"),
    (ValueError("shapes\n(3,)"), 1, "ERROR flarecli: error: internal error: ValueError: shapes (3,)"),
    (KeyboardInterrupt(), 130, "ERROR flarecli: interrupted"),
]


@pytest.mark.parametrize(("error", "code", "expected"), LOGGED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("how", ["", "-q", "-vv", "--json"])
def test_the_log_file_has_the_error_and_where_it_arose(monkeypatch, tmp_path, capsys, error, code, expected, how):
    def run_scene(job, *, on_progress=None, network=None):
        raise error

    monkeypatch.setattr(pipeline, "run_scene", run_scene)
    log = tmp_path / "flare.log"
    assert run(["reconstruct", "photos", "-o", "scene", "--log-file", str(log), *how.split()]) == code
    text = log.read_text()
    assert text.count(expected) == 1 and text.count("Traceback (most recent call last)") == 1
    assert "in run_scene\n    raise error" in text
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert said.count("interrupted" if code == 130 else str(error).splitlines()[0]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "weights pull no-such-model",
        "weights pull flare --license-policy commercial",
        "train --fine-tune",
        "batch x -o x",
        "inspect nothing",
    ],
)
def test_the_log_file_has_errors_that_come_before_the_work(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert run([*line.split(), "--log-file", "flare.log"]) in (3, 5)
    assert (tmp_path / "flare.log").read_text().count("ERROR flarecli: error: ") == 1


def test_an_exit_code_is_no_error_in_the_log_file(jobs, tmp_path):
    log = tmp_path / "flare.log"
    assert run(["reconstruct", "photos", "-o", "scene", "--strict", "--log-file", str(log)]) == 6
    with pytest.raises(typer.Exit), Talk(TalkOptions(log_file=log)) as talk:
        talk.say("partial")
        raise typer.Exit(6)
    assert "partial" in log.read_text() and "ERROR" not in log.read_text()


def test_a_log_file_that_can_not_be_written_is_code_3(jobs, tmp_path):
    assert run(["reconstruct", "photos", "-o", "scene", "--log-file", str(tmp_path / "no" / "x.log")]) == 3
    assert jobs == []


def test_logging_is_left_as_it_was(jobs):
    before = list(logging.getLogger("flarecli").handlers)
    run(["reconstruct", "photos", "-o", "scene"])
    assert logging.getLogger("flarecli").handlers == before
