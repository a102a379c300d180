import errno
from pathlib import Path

import pytest

from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.export.atomic import OutputFolder
from flarecli.export.manifest import describe_files, write_manifest


def write_output(target: Path, content: dict[str, str], **options) -> None:
    with OutputFolder(target, **options) as staging:
        for name, text in content.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text)
        manifest = {"format": "flarecli scene", "format_version": 1, "files": describe_files(staging)}
        write_manifest(staging, manifest)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_new_folder_appears_whole_and_nothing_stays_beside_it(tmp_path):
    target = tmp_path / "deep" / "scene"
    with OutputFolder(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
        assert staging.parent == target.parent and staging.name.startswith(".scene.partial-")
    assert tree(tmp_path) == {"deep/scene/a": "1"}
    assert [p.name for p in target.parent.iterdir()] == ["scene"]


def test_empty_existing_folder_is_fine(tmp_path):
    (tmp_path / "scene").mkdir()
    write_output(tmp_path / "scene", {"a": "1"})
    assert tree(tmp_path / "scene")["a"] == "1"


def test_existing_folder_keeps_its_place(tmp_path, monkeypatch):
    """It may be a mount point, which can't be renamed, or the folder in which a shell stands."""
    target = tmp_path / "scene"
    target.mkdir()
    before = target.stat().st_ino
    monkeypatch.chdir(target)
    write_output(Path(), {"a": "1", "images/b": "1"})
    write_output(Path(), {"a": "2"}, overwrite=True)
    assert Path.cwd() == target and target.stat().st_ino == before
    assert sorted(tree(target)) == ["a", "flare.json"] and tree(target)["a"] == "2"
    assert sorted(path.name for path in target.iterdir()) == ["a", "flare.json"]


def test_leftovers_of_a_killed_run_are_no_content(tmp_path):
    (tmp_path / "scene" / ".flare-partial-x").mkdir(parents=True)
    write_output(tmp_path / "scene", {"a": "1"})
    assert (tmp_path / "scene" / ".flare-partial-x").is_dir() and tree(tmp_path / "scene")["a"] == "1"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize("at", range(8))
def test_interrupt_while_files_move_takes_everything_back(tmp_path, rename_fails, at, problem):
    target = tmp_path / "scene"
    write_output(target, {"a": "old", "depth/x": "old"})
    (target / "mine.txt").write_text("mine")
    before, calls = tree(tmp_path), rename_fails(at, problem)
    expected = pytest.raises(KeyboardInterrupt if problem is KeyboardInterrupt else OutputError)
    if at < 7:  # three files of the old output move away, four of the new one in
        with expected:
            write_output(target, {"a": "new", "images/b": "new", "images/c": "new"}, overwrite=True)
        assert tree(tmp_path) == before
        assert sorted(path.name for path in target.iterdir()) == ["a", "depth", "flare.json", "mine.txt"]
    else:
        write_output(target, {"a": "new", "images/b": "new", "images/c": "new"}, overwrite=True)
        assert len(calls) == 7 and tree(target)["images/c"] == "new"


def test_folder_that_is_a_link_is_not_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "scene"
    target.mkdir()
    (target / "images").symlink_to(outside)
    with pytest.raises(OutputExists, match="images is not ours"):
        write_output(target, {"images/a.png": "new"}, overwrite=True)
    assert list(outside.iterdir()) == [] and [path.name for path in target.iterdir()] == ["images"]


def test_text_model_that_would_be_read_instead_is_refused_before_the_work(tmp_path):
    write_output(tmp_path / "scene", {"sparse/0/cameras.bin": "old"})
    (tmp_path / "scene/sparse/0/cameras.txt").write_text("mine")
    with pytest.raises(OutputExists, match=r"cameras\.txt would be read instead"):
        OutputFolder(tmp_path / "scene", overwrite=True)


def test_photos_where_the_copies_go_are_refused_before_the_work(tmp_path):
    (tmp_path / "images" / "day").mkdir(parents=True)
    photo = tmp_path / "images" / "day" / "a.jpg"
    photo.write_text("mine")
    with pytest.raises(InputError, match=r"a\.jpg lies in .*images"):
        OutputFolder(tmp_path, overwrite=True).keep_clear_of([photo])
    OutputFolder(tmp_path / "scene").keep_clear_of([photo])


def test_existing_output_is_refused_and_names_three_ways_out(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputExists) as error:
        OutputFolder(tmp_path)
    assert all(way in error.value.hint for way in ("--overwrite", "--resume", "-o"))
    assert error.value.exit_code == 3


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_interrupted_run_leaves_the_old_output_and_cleans_up(tmp_path, problem):
    write_output(tmp_path / "scene", {"a": "old"})
    before = tree(tmp_path)
    with pytest.raises(problem), OutputFolder(tmp_path / "scene", overwrite=True) as staging:
        (staging / "a").write_text("half")
        raise problem
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def test_overwrite_replaces_ours_and_keeps_foreign_files(tmp_path):
    target = tmp_path / "scene"
    write_output(target, {"images/a.png": "old", "depth/a.npz": "old", "sparse/0/cameras.bin": "old"})
    (target / "notes.txt").write_text("mine")
    (target / "images" / "extra.png").write_text("mine")
    (target / "sparse/0/points3D.ply").write_text("cache")
    (target / "empty").mkdir()
    write_output(target, {"images/a.png": "new", "sparse/0/cameras.bin": "new"}, overwrite=True)
    found = tree(target)
    found.pop("flare.json")
    assert found == {
        "images/a.png": "new",
        "sparse/0/cameras.bin": "new",
        "notes.txt": "mine",
        "images/extra.png": "mine",
    }
    assert not (target / "depth").exists() and (target / "empty").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def test_overwrite_refuses_to_replace_a_foreign_file(tmp_path):
    target = tmp_path / "scene"
    target.mkdir()
    (target / "points.ply").write_text("mine")
    with pytest.raises(OutputExists, match=r"points\.ply is not ours"):
        write_output(target, {"points.ply": "new"}, overwrite=True)
    assert tree(tmp_path) == {"scene/points.ply": "mine"}


@pytest.mark.parametrize("listed", ["../outside", "/etc/passwd", "a/../../outside"])
def test_hostile_manifest_touches_nothing_outside(tmp_path, listed):
    target = tmp_path / "scene"
    write_output(target, {"a": "1"})
    (tmp_path / "outside").write_text("mine")
    write_manifest(
        target, {"format": "flarecli scene", "format_version": 1, "files": [{"path": listed}, {"path": "a"}, 3]}
    )
    write_output(target, {"b": "2"}, overwrite=True)
    assert (tmp_path / "outside").read_text() == "mine"
    assert set(tree(target)) == {"b", "flare.json"}


def test_linked_folder_in_the_old_output_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_text("mine")
    target = tmp_path / "scene"
    write_output(target, {"b": "1"})
    (target / "linked").symlink_to(outside)
    write_output(target, {"b": "2"}, overwrite=True)
    assert (outside / "a.png").read_text() == "mine" and (target / "linked").is_symlink()


def test_places_that_can_not_be_outputs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        OutputFolder(tmp_path / "file")
    with pytest.raises(InputError, match="photos folder itself"):
        OutputFolder(photos, sources=[photos])
    with pytest.raises(InputError, match="inside the photos folder"):
        OutputFolder(photos / "scene", sources=[photos])
    with pytest.raises(InputError):
        OutputFolder(Path("/"))
    with pytest.raises(OutputError), OutputFolder(tmp_path / "file" / "scene"):
        pass


def test_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="scene can't be written") as error, OutputFolder(tmp_path / "scene"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "space" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_error_of_another_file_keeps_its_type(tmp_path):
    with pytest.raises(FileNotFoundError), OutputFolder(tmp_path / "scene"):
        (tmp_path / "photo.jpg").read_bytes()
