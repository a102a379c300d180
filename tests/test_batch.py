"""Batches: names, one load of the network, failures that do not spread, summaries, memory."""

import csv
import gc
import json
import weakref
from pathlib import Path

import pytest

from flarecli import pipeline
from flarecli.batch import run_batch, scene_jobs
from flarecli.errors import InputError, OutputExists, PartialResult, ReconstructionError, WeightsError
from flarecli.job import SceneJob, SceneResult
from flarecli.summary import SUMMARY_COLUMNS, SceneOutcome, batch_exit_code, count_photos, write_summary

TEMPLATE = SceneJob(sources=(), output=Path("unused"), seed=7)


class Network:
    """Something that a weak reference can point at."""


@pytest.fixture
def program(monkeypatch):
    """A pipeline that does what the scene's name says, and notes what it was asked."""
    calls = {"loads": [], "runs": []}

    def load_network(job):
        calls["loads"].append(job.model)
        return Network()

    def run_scene(job, *, on_progress=None, network=None):
        kind = job.output.name.split("-")[0]
        calls["runs"].append((job.output.name, None if kind == "old" else network(job)))
        on_progress("matching", 1, 2)
        if kind == "broken":
            raise ReconstructionError("no cameras survive", "take more photos")
        if kind == "greedy":
            raise MemoryError
        if kind == "defect":
            raise ValueError("shapes\ndo not match")
        if kind == "full":
            raise OSError(28, "No space left on device", "scene/mesh.ply")
        if kind == "taken":
            raise OutputExists("holds a finished scene, made with other seed", "--overwrite makes it anew")
        if kind == "stop":
            raise KeyboardInterrupt
        if kind == "loading":  # what pycolmap makes of Ctrl-C while it loads
            try:
                raise ImportError from KeyboardInterrupt()
            except ImportError as error:
                raise RuntimeError("Cannot import the C++ backend") from error
        photos = [{"name": "a", "status": "verified"}, {"name": "b", "status": "dropped", "reason": "blank"}]
        code = PartialResult.exit_code if kind == "partial" else 0
        manifest = {"photos": photos, "warnings": ["focal length open"]}
        return SceneResult(output=job.output, exit_code=code, manifest=manifest, resumed=kind == "old")

    monkeypatch.setattr(pipeline, "load_network", load_network)
    monkeypatch.setattr(pipeline, "run_scene", run_scene)
    return calls


def jobs_for(tmp_path, *names, **options):
    return scene_jobs(
        [tmp_path / name for name in names], tmp_path / "out", SceneJob(sources=(), output=tmp_path, **options)
    )


def test_each_folder_becomes_a_job_with_the_options_of_the_template(tmp_path):
    jobs = scene_jobs([tmp_path / "room", tmp_path / "hall"], tmp_path / "out", TEMPLATE)
    assert [job.output for job in jobs] == [tmp_path / "out" / "room", tmp_path / "out" / "hall"]
    assert jobs[0].sources == (str(tmp_path / "room"),)
    assert jobs[0].seed == 7


def names_of(tmp_path, *folders):
    return [job.output.name for job in scene_jobs([tmp_path / each for each in folders], tmp_path / "out", TEMPLATE)]


def test_equal_names_get_those_of_their_parents_also_where_only_the_case_differs(tmp_path):
    assert names_of(tmp_path, "attic/images", "kitchen/Images", "hall") == ["attic-images", "kitchen-Images", "hall"]
    assert names_of(tmp_path, "kitchen/Images", "new/images", "attic/images") == [
        "kitchen-Images",
        "new-images",
        "attic-images",
    ]


def test_names_that_are_still_equal_are_numbered_and_take_no_other_name(tmp_path):
    folders = ("a/x/room", "b/x/Room", "c/x-room-2", "d/x/room")
    assert names_of(tmp_path, *folders) == ["x-room", "x-Room-3", "x-room-2", "x-room-4"]
    assert names_of(tmp_path, *folders) == names_of(tmp_path, *folders)
    assert names_of(tmp_path, "room", "room") == [f"{tmp_path.name}-room", f"{tmp_path.name}-room-2"]


def test_a_linked_folder_has_the_name_of_its_link(tmp_path):
    (tmp_path / "disk/DCIM").mkdir(parents=True)
    (tmp_path / "garden").symlink_to(tmp_path / "disk/DCIM")
    assert names_of(tmp_path, "garden") == ["garden"]


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert scene_jobs(["."], tmp_path / "out", TEMPLATE)[0].output.name == "here"


def test_no_folders_or_the_output_itself_are_refused(tmp_path):
    with pytest.raises(InputError, match="no photo folders"):
        scene_jobs([], tmp_path, TEMPLATE)
    with pytest.raises(InputError, match="is the output folder"):
        scene_jobs([tmp_path / "out"], tmp_path / "out", TEMPLATE)


def test_the_network_is_loaded_once_and_given_to_every_scene(program, tmp_path):
    run_batch(jobs_for(tmp_path, "a", "b", "c"))
    assert program["loads"] == ["flare-small"]
    assert len({id(network) for _, network in program["runs"]}) == 1


def test_another_model_is_loaded_when_a_job_wants_it(program, tmp_path):
    jobs = jobs_for(tmp_path, "a") + jobs_for(tmp_path, "b", model="flare") + jobs_for(tmp_path, "c", model="flare")
    run_batch(jobs)
    assert program["loads"] == ["flare-small", "flare"]


def test_a_failed_scene_is_recorded_and_the_others_run(program, tmp_path):
    told = []
    names = ["good", "broken", "greedy", "defect", "full", "taken", "partial", "old"]
    outcomes = run_batch(jobs_for(tmp_path, *names), on_scene=told.append)
    assert told == outcomes
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert {name: (o.status, o.exit_code) for name, o in by_name.items()} == {
        "good": ("ok", 0),
        "broken": ("failed", 7),
        "greedy": ("failed", 4),
        "defect": ("failed", 1),
        "full": ("failed", 3),
        "taken": ("failed", 3),
        "partial": ("partial", 6),
        "old": ("ok", 0),
    }
    assert (by_name["broken"].error, by_name["broken"].message) == ("ReconstructionError", "no cameras survive")
    assert by_name["broken"].hint == "take more photos"
    errors = {name: outcome.error for name, outcome in by_name.items() if outcome.error}
    assert errors == {
        "broken": "ReconstructionError",
        "greedy": "MemoryExceeded",
        "defect": "InternalError",
        "full": "OutputError",
        "taken": "OutputExists",
    }
    assert by_name["defect"].message == "internal error: ValueError: shapes do not match"
    assert "in run_scene\n" in by_name["defect"].traceback and "traceback" not in by_name["defect"].as_row()
    assert by_name["good"].as_row()["warnings"] == ["dropped b: blank", "focal length open"]
    assert by_name["old"].resumed
    assert by_name["good"].photos == {"verified": 1, "dropped": 1}


def test_without_keep_going_the_first_failure_ends_the_batch(program, tmp_path):
    outcomes = run_batch(jobs_for(tmp_path, "good", "broken", "never"), keep_going=False)
    assert [outcome.name for outcome in outcomes] == ["good", "broken"]


@pytest.mark.parametrize("kind", ["stop", "loading"])
def test_an_interrupt_ends_the_batch(program, tmp_path, kind):
    with pytest.raises(KeyboardInterrupt):
        run_batch(jobs_for(tmp_path, kind, "good"))
    assert [name for name, _ in program["runs"]] == [kind]


def test_missing_weights_end_the_batch_unless_nothing_needs_them(program, monkeypatch, tmp_path):

    def no_weights(job):
        raise WeightsError("absent", "do this")

    monkeypatch.setattr(pipeline, "load_network", no_weights)
    told = []
    with pytest.raises(WeightsError):
        run_batch(jobs_for(tmp_path, "old", "good", "old-2"), on_scene=told.append)
    assert [each.name for each in told] == ["old"]
    assert [each.status for each in run_batch(jobs_for(tmp_path, "old", "old-2"))] == ["ok", "ok"]

    def no_device(job):
        raise InputError("no such device", "do this")

    monkeypatch.setattr(pipeline, "load_network", no_device)
    with pytest.raises(InputError, match="no such device"):
        run_batch(jobs_for(tmp_path, "good"))


def test_progress_names_the_scene(program, tmp_path):
    seen = []
    run_batch(jobs_for(tmp_path, "a", "b"), on_progress=lambda *event: seen.append(event))
    assert seen == [("a: matching", 1, 2), ("b: matching", 1, 2)]


def test_two_jobs_may_not_write_one_folder(program, tmp_path):
    with pytest.raises(InputError, match="same folder"):
        run_batch(jobs_for(tmp_path, "a") * 2)


def test_nothing_of_a_scene_stays_in_memory(monkeypatch, tmp_path):
    alive = []

    class Ballast:
        """Stands for what a scene holds."""

    def run_scene(job, *, on_progress=None, network=None):
        ballast = Ballast()
        ballast.cycle = ballast  # only a collection frees it
        alive.append(weakref.ref(ballast))
        if job.output.name.startswith("bad"):
            raise ReconstructionError("the traceback holds the ballast too", "do this")
        return SceneResult(output=job.output, exit_code=0, manifest={"photos": [], "ballast": ballast})

    monkeypatch.setattr(pipeline, "load_network", lambda job: None)
    monkeypatch.setattr(pipeline, "run_scene", run_scene)
    still_there = []
    gc.disable()
    try:
        outcomes = run_batch(
            jobs_for(tmp_path, *(f"{kind}{i}" for i in range(5) for kind in ("good", "bad"))),
            on_scene=lambda _: still_there.append(sum(ref() is not None for ref in alive)),
        )
    finally:
        gc.enable()
    assert len(outcomes) == 10
    assert still_there == [0] * 10


def outcome(name, code, **more):
    return SceneOutcome(name=name, output=Path("out") / name, exit_code=code, seconds=1.23456, **more)


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 0], 0), ([0, 6], 6), ([0, 7], 6), ([6, 6], 6), ([3, 7], 7), ([4], 7), ([6, 4], 6)]
)
def test_exit_code_of_a_batch(codes, expected):
    assert batch_exit_code([outcome(str(i), code) for i, code in enumerate(codes)]) == expected


def test_summaries_hold_every_scene_and_no_half_file_stays(tmp_path):
    rows = [
        outcome("a", 0, photos={"verified": 3}),
        outcome("b, c", 7, error="InputError", message='no "photos"\nhere', warnings=("one", "two")),
    ]
    write_summary(tmp_path / "new", rows[:1], planned=2)
    write_summary(tmp_path / "new", rows, planned=2)
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert {key: summary[key] for key in ("planned", "done", "ok", "partial", "failed", "exit_code")} == {
        "planned": 2,
        "done": 2,
        "ok": 1,
        "partial": 0,
        "failed": 1,
        "exit_code": 6,
    }
    assert summary["scenes"][0]["verified"] == 3
    with (tmp_path / "new" / "summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == SUMMARY_COLUMNS
    assert table[1]["warnings"] == "one | two" and summary["scenes"][1]["warnings"] == ["one", "two"]
    assert (table[1]["name"], table[1]["message"], table[1]["exit_code"]) == ("b, c", 'no "photos"\nhere', "7")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["summary.csv", "summary.json"]


def test_a_manifest_without_photos_counts_none():
    assert count_photos({}) == {}
