import hashlib
import json

import pytest

from flarecli.cli.app import run
from flarecli.errors import InputError
from flarecli.export.manifest import (
    MANIFEST_NAME,
    build_manifest,
    listed_files,
    read_manifest,
    write_manifest,
)


def test_content(synthetic, scene):
    manifest = read_manifest(scene)
    assert manifest["format_version"] == 1 and manifest["options"] == {"seed": 0}
    assert manifest["counts"]["cameras"] == 4 == manifest["counts"]["verified"]
    assert manifest["counts"]["observations"] == len(synthetic.reconstruction.tracks.point_index)
    assert manifest["timings_s"] == {"export": 0.123}
    assert [photo["status"] for photo in manifest["photos"]] == ["verified"] * 4
    assert manifest["lens_k1"] == dict.fromkeys(synthetic.reconstruction.image_names, 0.0)
    assert manifest["model"]["model"] == "synthetic"
    assert "torch" in manifest["libraries"] and manifest["exports"]["transforms"] == [
        "transforms.json",
        "sparse_pc.ply",
    ]
    assert any("--data_factor 1" in command for command in manifest["next"])
    assert any("--colmap-path sparse/0" in command for command in manifest["next"])


def test_every_file_is_listed_with_its_hash(scene):
    listed = {entry["path"]: entry for entry in read_manifest(scene)["files"]}
    there = {path.relative_to(scene).as_posix() for path in scene.rglob("*") if path.is_file()}
    assert set(listed) == there - {MANIFEST_NAME} == listed_files(scene)
    data = (scene / "points.ply").read_bytes()
    assert listed["points.ply"] == {
        "path": "points.ply",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_not_a_number_is_no_json(synthetic, tmp_path):
    manifest = build_manifest(synthetic.reconstruction, tmp_path, options={}, timings_s={"a": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(tmp_path, manifest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "flarecli scene"}',
        '{"format": "flarecli scene", "format_version": 99}',
        '{"format": "flarecli scene", "format_version": 1}',
        "[" * 10**5,
    ],
)
def test_damaged(tmp_path, text):
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(InputError, match=r"flare\.json"):
        read_manifest(tmp_path)
    assert listed_files(tmp_path) == set()


ABSENT = object()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, ABSENT) for key in ("files", "photos", "counts", "model", "options", "exports", "warnings")),
        ("files", {}),
        ("files", ["points.ply"]),
        ("files", [{"path": 3, "bytes": 1, "sha256": ""}]),
        ("files", [{"path": "points.ply"}]),
        ("photos", [{"name": "a.jpg"}]),
        ("counts", None),
        ("render_back", []),
    ],
)
def test_parts_that_readers_rely_on_are_looked_at(scene, key, value, capsys):
    manifest = read_manifest(scene) | {key: value}
    write_manifest(scene, {name: each for name, each in manifest.items() if each is not ABSENT})
    with pytest.raises(InputError, match=rf"flare\.json is damaged: {key}"):
        read_manifest(scene)
    for command in (["inspect", str(scene)], ["export", str(scene), "--to", "depth-exr"]):
        assert run(command) == 3
        assert "flare.json is damaged" in capsys.readouterr().err


def test_a_manifest_of_the_first_versions_is_read(scene):
    assert "render_back" not in read_manifest(scene)


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"holds no flare\.json"):
        read_manifest(tmp_path)


def test_unsafe_paths_are_never_listed(tmp_path):
    files = [{"path": p} for p in ("/etc/passwd", "../x", "a/../../b", "good/file", 3)] + ["odd"]
    content = {"format": "flarecli scene", "format_version": 1, "files": files}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    assert listed_files(tmp_path) == {"good/file"}
