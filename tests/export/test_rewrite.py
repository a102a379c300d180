"""More formats for a finished scene: only new files appear, the manifest follows, failures change nothing."""

import hashlib
import json

import pytest

from flarecli.errors import InputError, OutputExists, VerificationError
from flarecli.export import rewrite
from flarecli.export.manifest import next_commands, read_manifest, update_manifest
from flarecli.export.rewrite import export_scene
from flarecli.export.verify import verify_scene


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_new_files_appear_verified_and_listed(scene):
    before = contents(scene)
    written = export_scene(scene, ["depth-exr"])
    after = contents(scene)
    new = {path.relative_to(scene).as_posix() for path in written.files["depth-exr"]}
    assert set(after) - set(before) == new
    assert len(new) == 4
    assert {name for name in before if before[name] != after[name]} == {"flare.json"}
    manifest = json.loads((scene / "flare.json").read_text())
    assert manifest["exports"]["depth-exr"] == sorted(new)
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
        name: digest for name, digest in after.items() if name != "flare.json"
    }
    verify_scene(scene)


def test_a_new_format_brings_the_commands_of_its_programs(scene):
    for name in ("transforms.json", "sparse_pc.ply"):
        (scene / name).unlink()
    update_manifest(scene, {"next": next_commands(scene)})
    assert not any("nerfstudio-data" in command for command in read_manifest(scene)["next"])
    export_scene(scene, ["transforms"])
    assert any("nerfstudio-data" in command for command in read_manifest(scene)["next"])


def test_an_existing_file_is_refused_and_ours_is_replaced_on_demand(scene):
    before = contents(scene)
    with pytest.raises(OutputExists, match=r"points\.ply exists already"):
        export_scene(scene, ["points"])
    assert contents(scene) == before
    (scene / "points.ply").write_bytes(b"damaged")
    export_scene(scene, ["points"], overwrite=True)
    assert contents(scene)["points.ply"] == before["points.ply"]


def test_a_model_that_would_be_read_instead_is_refused_and_cached_points_go(scene):
    (scene / "sparse/0/points3D.ply").write_text("cache")
    export_scene(scene, ["colmap"], overwrite=True)
    assert not (scene / "sparse/0/points3D.ply").exists()
    (scene / "sparse/0/cameras.txt").write_text("mine")
    before = contents(scene)
    with pytest.raises(OutputExists, match=r"cameras\.txt would be read instead"):
        export_scene(scene, ["colmap"], overwrite=True)
    assert contents(scene) == before


def test_a_foreign_file_is_never_replaced(scene):
    name = "depth/photo_00.png.exr"
    (scene / name).write_text("mine")
    before = contents(scene)
    with pytest.raises(OutputExists, match="photo_00"):
        export_scene(scene, ["depth-exr"], overwrite=True)
    assert contents(scene) == before


def test_a_failed_verification_leaves_the_scene_as_it_was(scene, monkeypatch):
    def fail(folder):
        raise VerificationError(f"{folder} does not read back", "do this")

    monkeypatch.setattr(rewrite, "verify_scene", fail)
    before = contents(scene)
    with pytest.raises(VerificationError):
        export_scene(scene, ["depth-exr"])
    assert contents(scene) == before
    assert not list(scene.glob(".export-*"))


def test_a_folder_that_is_no_scene_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"scene\.npz"):
        export_scene(tmp_path, ["points"])
