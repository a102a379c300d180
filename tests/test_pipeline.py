"""One scene from photos to files, end to end with the tiny test network."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from flarecli import pipeline
from flarecli.errors import FlareError, InputError, OutputError, OutputExists
from flarecli.export.archive import load_scene
from flarecli.export.colmap import write_colmap
from flarecli.export.verify import verify_scene
from flarecli.geometry.projection import intrinsics
from flarecli.geometry.transforms import Sim3, rigid
from flarecli.job import DEFAULT_EXPORTS, SceneJob, SceneResult
from flarecli.pipeline import load_network, reconstruct, run_scene
from flarecli.scene.cameras import Cameras
from tests.synthetic import _render, make_scene

LIGHT = ("colmap", "points", "depth")


@pytest.fixture(scope="module")
def scene():
    return make_scene(3, (180, 240), num_tracks=60, depth_scale=0.1, arc_deg=20)


@pytest.fixture(scope="module")
def network():
    return load_network(SceneJob(sources=(), output=Path(), model="flare-test"))


@pytest.fixture
def photos(scene, tmp_path) -> Path:
    scene.write_images(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def run(network, photos, tmp_path):
    """Reconstruct the photos with the test network; options replace the job's fields."""

    def reconstruct(**options) -> SceneResult:
        defaults = {"sources": (str(photos),), "output": tmp_path / "scene", "model": "flare-test"}
        job = SceneJob(**{**defaults, "exports": LIGHT, "preset": "fast", **options})
        return run_scene(job, network=network)

    return reconstruct


def statuses(result: SceneResult) -> list[str]:
    return [photo["status"] for photo in result.manifest["photos"]]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, pictures) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(np.asarray(picture).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def test_every_file_is_written_and_true(scene, photos, tmp_path, network):
    said = []
    output = tmp_path / "deep" / "scene"
    job = SceneJob(sources=(str(photos),), output=output, model="flare-test", preset="fast", colmap_text=True)
    result = run_scene(job, on_progress=lambda *step: said.append(step), network=network)
    assert result.exit_code == 0 and result.output == output and not result.resumed
    assert statuses(result) == ["verified"] * 3
    names = set(content(output))
    assert {"flare.json", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"} <= names
    assert {"sparse_text/0/cameras.txt", "points.ply", "gaussians.ply", "transforms.json"} <= names
    assert {f"images/photo_0{i}.png" for i in range(3)} <= names
    assert set(verify_scene(output)) >= {"sparse/0", "points.ply", "flare.json"}
    assert json.loads((output / "flare.json").read_text()) == result.manifest
    assert {"photos", "network", "assemble", "refine", "export", "verify"} <= set(result.manifest["timings_s"])
    model = pycolmap.Reconstruction(output / "sparse/0")
    assert model.num_reg_images() == 3 and model.num_points3D() > 50
    assert model.compute_mean_reprojection_error() < 1
    found = load_scene(output)
    angle = Rotation.from_matrix(
        np.swapaxes(found.cameras.c2w[:, :3, :3], 1, 2) @ scene.reconstruction.cameras.c2w[:, :3, :3]
    ).magnitude()
    assert np.degrees(angle).max() < 2
    np.testing.assert_allclose(found.cameras.c2w[0], np.eye(4), atol=1e-9)
    assert {stage for stage, _, _ in said} >= {"photos", "network", "features", "matching", "images"}
    assert list(tmp_path.glob("**/.scene*")) == []


def test_the_same_input_and_seed_give_the_same_cameras(run, tmp_path):
    once, twice = (load_scene(run(output=tmp_path / name).output) for name in ("a", "b"))
    np.testing.assert_allclose(once.cameras.K, twice.cameras.K, rtol=1e-6)
    np.testing.assert_allclose(once.cameras.c2w, twice.cameras.c2w, atol=1e-6)
    np.testing.assert_array_equal(once.tracks.point_index, twice.tracks.point_index)


@pytest.mark.parametrize(("refine", "verified"), [("none", False), ("ba", None)])
def test_other_ways_of_refining(run, refine, verified):
    result = run(refine=refine)
    assert result.exit_code == 0
    assert ("refine" in result.manifest["timings_s"]) == (refine != "none")
    if verified is False:
        assert statuses(result) == ["network-only"] * 3
        assert len(load_scene(result.output).tracks) == 0
    verify_scene(result.output)


def test_a_focal_length_that_the_photos_leave_open_is_told(scene, run, tmp_path):
    open_one = run()
    sigmas = [photo["focal_sigma"] for photo in open_one.manifest["photos"]]
    assert min(sigmas) > 0.04
    assert "hardly determine the focal length of 3 of 3" in open_one.manifest["warnings"][0]
    diagonal = np.hypot(*scene.images[0].shape[:2])
    given = run(
        intrinsics=f"35mm={scene.reconstruction.cameras.focal_px[0] / diagonal * 43.27:.2f}", output=tmp_path / "given"
    )
    assert [photo["focal_sigma"] for photo in given.manifest["photos"]] == [0, 0, 0]
    assert given.manifest["warnings"] == []


def test_a_lens_that_can_not_be_held_is_told(scene, run, tmp_path):
    lens = {"fl_x": scene.reconstruction.cameras.focal_px[0], "w": 240, "h": 180, "k1": -0.9, "k2": 0.8}
    frames = [{"file_path": f"images/photo_0{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
    (tmp_path / "transforms.json").write_text(json.dumps(lens | {"frames": frames}))
    manifest = run(intrinsics=str(tmp_path / "transforms.json"), refine="none").manifest
    assert "one radial term comes only within" in manifest["warnings"][0]
    assert json.loads((tmp_path / "scene/flare.json").read_text())["warnings"] == manifest["warnings"]


def test_too_few_verified_photos_are_code_6_and_still_written(run, photos):
    noise = np.random.default_rng(0).integers(0, 255, (45, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC).save(photos / "stranger.png")
    result = run(min_registered=0.9)
    assert result.exit_code == 6 and sorted(statuses(result)) == ["network-only"] + ["verified"] * 3
    stranger = next(photo for photo in result.manifest["photos"] if photo["name"] == "stranger.png")
    assert stranger["status"] == "network-only" and stranger["reason"]
    assert pycolmap.Reconstruction(result.output / "sparse/0").num_reg_images() == 4
    assert run(min_registered=0.7, overwrite=True).exit_code == 0
    # without verification every photo with a camera counts
    assert run(min_registered=1.0, refine="none", overwrite=True).exit_code == 0


def test_a_fraction_counts_as_the_decimal_number_that_it_was_given_as():
    photos = [{"status": "verified"}] * 7 + [{"status": "network-only"}] * 18
    job = SceneJob(sources=(), output=Path(), min_registered=0.28)
    assert job.exit_code({"photos": photos}) == 0
    assert job.exit_code({"photos": [*photos, {"status": "dropped"}]}) == 6


def test_dropped_photos_count_as_missing(run, photos):
    (photos / "broken.jpg").write_bytes(b"no picture")
    result = run(min_registered=0.9)
    assert result.exit_code == 6 and sorted(statuses(result)) == ["dropped"] + ["verified"] * 3
    assert not (result.output / "images/broken.jpg").exists()
    assert run(min_registered=0.9, refine="none", overwrite=True).exit_code == 6


def test_strict_refuses_a_broken_photo_and_writes_nothing(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        run(strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_resume_keeps_a_finished_scene_and_refuses_to_replace_it_by_another(run, photos):
    first = run()
    before = content(first.output)
    kept = run(resume=True)
    assert kept.resumed and kept.exit_code == 0 and kept.manifest == first.manifest
    with pytest.raises(OutputExists, match=r"made with other seed, export formats$") as refused:
        run(resume=True, seed=7, exports=("colmap",))
    assert "--overwrite" in refused.value.hint
    with pytest.raises(OutputExists, match=r"made with other preset$"):
        run(resume=True, preset="balanced")
    (photos / "photo_02.png").unlink()
    with pytest.raises(OutputExists, match=r"made with other photos or masks$"):
        run(resume=True)
    assert content(first.output) == before
    assert run(overwrite=True, seed=7).manifest["options"]["seed"] == 7
    assert run(resume=True, seed=7).resumed
    assert run(resume=True, overwrite=True, seed=7).resumed
    anew = run(resume=True, overwrite=True, seed=8)
    assert not anew.resumed and anew.manifest["options"]["seed"] == 8


def test_resume_asks_only_for_what_decides_the_result(run, photos):
    (photos / "broken.jpg").write_bytes(b"no picture")
    run(colmap_text=True)
    (photos / "broken.jpg").unlink()
    how = {"offline": True, "strict": True, "license_policy": "commercial", "max_memory": 2**33, "device": "cpu"}
    assert run(resume=True, exports=(*reversed(LIGHT), "colmap-text"), **how).resumed
    assert run(resume=True, colmap_text=True, min_registered=0.99).exit_code == 6


def test_resume_knows_the_same_photos_by_other_words(run, photos, monkeypatch):
    run()
    assert run(resume=True, sources=(f"{photos}/",)).resumed
    assert run(resume=True, sources=(f"{photos}/*.png",)).resumed
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in sorted(photos.iterdir()))))
    assert run(resume=True, sources=("-",)).resumed


def test_photos_from_standard_input_are_read_but_once(run, photos, monkeypatch):
    """So what was read for the comparison must serve the work too."""
    (run().output / "points.ply").unlink()
    (photos / "photo_02.png").unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in sorted(photos.iterdir()))))
    changed = run(resume=True, sources=("-",))
    assert not changed.resumed and len(changed.manifest["photos"]) == 2
    assert not (changed.output / "images/photo_02.png").exists()


def test_resume_looks_into_the_files_that_it_is_told_to_use(run, tmp_path, scene):
    priors = tmp_path / "model"
    write_colmap(scene.reconstruction, priors)
    told = {"resume": True, "intrinsics": str(priors / "sparse" / "0")}
    assert not run(**told).resumed and run(**told).resumed
    priors.rename(tmp_path / "moved")
    moved = tmp_path / "moved/sparse/0"
    assert run(resume=True, intrinsics=str(moved)).resumed
    (moved / "notes").write_text("changed")
    with pytest.raises(OutputExists, match=r"made with other intrinsics$"):
        run(resume=True, intrinsics=str(moved))
    with pytest.raises(OutputExists, match=r"made with other intrinsics$"):
        run(resume=True)


def test_only_the_model_of_a_folder_with_known_cameras_is_looked_into(tmp_path, scene, monkeypatch):
    """It may be a whole scene with all its photos."""
    write_colmap(scene.reconstruction, tmp_path)
    scene.write_images(tmp_path / "images")
    job = SceneJob(sources=(), output=tmp_path / "out", poses=tmp_path)
    before = job.inputs("photos")
    (tmp_path / "images/photo_00.png").write_bytes(b"other")
    assert job.inputs("photos") == before and set(before["given"]) == {"poses"}
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=r"\.bin: can't be read"):
        job.inputs("photos")


def test_a_finished_scene_needs_no_network(network, photos, tmp_path):
    loads = []
    job = SceneJob(sources=(str(photos),), output=tmp_path / "scene", model="flare-test", exports=LIGHT, resume=True)
    for resumed in (False, True):
        assert run_scene(job, network=lambda job: loads.append(job) or network).resumed == resumed
    assert loads == [job]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x" * path.stat().st_size)])
def test_resume_makes_a_damaged_result_anew(run, damage):
    damage(run().output / "points.ply")
    mended = run(resume=True)
    assert not mended.resumed and run(resume=True).resumed
    verify_scene(mended.output)


def test_resume_does_not_keep_what_other_weights_made(run, monkeypatch):
    run()
    monkeypatch.setattr(SceneJob, "_weights_sha256", lambda _: "of the new file")
    with pytest.raises(OutputExists, match=r"made with other weights$"):
        run(resume=True)


def test_photos_in_the_place_of_their_copies_are_refused_before_the_work(run, photos, tmp_path, monkeypatch):
    photos.rename(tmp_path / "images")
    monkeypatch.setattr(pipeline, "_reconstruct", None)
    with pytest.raises(InputError, match=r"photo_00\.png lies in .*images"):
        run(sources=(str(tmp_path / "images"),), output=tmp_path, overwrite=True)


@pytest.mark.parametrize("exports", [("mesh", "mesh-poisson"), ("nonsense",), ("depth-exr",)])
def test_formats_that_cannot_be_written_are_told_before_the_work(run, monkeypatch, exports):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    monkeypatch.setattr(pipeline, "_reconstruct", None)
    with pytest.raises(FlareError, match=r"mesh|nonsense|depth-exr"):
        run(exports=exports)


def test_a_place_that_cannot_be_written_is_told_before_any_work(photos, tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError("the network was loaded for nothing")

    monkeypatch.setattr(pipeline, "load_network", work)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        run_scene(SceneJob(sources=(str(photos),), output=tmp_path / "file" / "scene", model="flare-test"))


@pytest.mark.parametrize(("mesh", "written"), [("none", False), ("poisson", True)])
def test_the_mesh_can_be_left_out_or_made_another_way(run, mesh, written):
    result = run(mesh=mesh, exports=("mesh", "gaussians"))
    assert (result.output / "mesh.ply").exists() == written == ("mesh-poisson" in result.manifest["exports"])
    assert result.manifest["counts"]["gaussians"] == result.manifest["counts"]["dense_points"] > 0


def test_resume_answers_with_the_exit_code_of_the_scene(run, photos):
    (photos / "broken.jpg").write_bytes(b"no picture")
    assert run(min_registered=0.9).exit_code == 6
    again = run(min_registered=0.9, resume=True)
    assert again.resumed and again.exit_code == 6


def test_an_existing_output_is_refused_and_overwriting_keeps_foreign_files(run, tmp_path):
    first = run()
    (first.output / "notes.txt").write_text("mine")
    before = content(first.output)
    with pytest.raises(OutputExists):
        run()
    assert content(first.output) == before
    second = run(overwrite=True, exports=("colmap",))
    assert (second.output / "notes.txt").read_text() == "mine"
    assert not (second.output / "points.ply").exists() and (second.output / "sparse/0/images.bin").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scene"]


@pytest.mark.parametrize("stage", ["network", "matching", "images", "export depth"])
def test_an_interrupt_leaves_nothing_behind(photos, tmp_path, network, stage):
    def interrupt(name: str, done: int, total: int) -> None:
        if name == stage:
            raise KeyboardInterrupt

    job = SceneJob(sources=(str(photos),), output=tmp_path / "scene", model="flare-test", exports=LIGHT, preset="fast")
    before = content(photos)
    with pytest.raises(KeyboardInterrupt):
        run_scene(job, on_progress=interrupt, network=network)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert content(photos) == before


def test_an_interrupt_keeps_what_was_there(run, photos, tmp_path, network):
    first = run()
    before = content(first.output)

    def interrupt(name: str, done: int, total: int) -> None:
        if name == "images":
            raise KeyboardInterrupt

    job = SceneJob(sources=(str(photos),), output=first.output, model="flare-test", seed=5, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        run_scene(job, on_progress=interrupt, network=network)
    assert content(first.output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scene"]


def test_two_photos_make_a_scene(run, photos):
    (photos / "photo_02.png").unlink()
    result = run(exports=DEFAULT_EXPORTS)
    assert statuses(result) == ["verified"] * 2
    found = load_scene(result.output)
    assert np.linalg.norm(found.cameras.centers[1]) > 0 and len(found.tracks) > 30


def test_portrait_landscape_and_other_sizes_in_one_scene(scene, run, tmp_path):
    images = scene.images
    turned = np.ascontiguousarray(images[1][:, 60:180])
    bigger = Image.fromarray(images[2]).resize((360, 270), Image.Resampling.BICUBIC)
    folder = write(tmp_path / "mixed", [images[0], turned, bigger])
    result = run(sources=(str(folder),))
    found = load_scene(result.output)
    assert found.cameras.size_hw.tolist() == [[180, 240], [180, 120], [270, 360]]
    assert statuses(result).count("verified") >= 2
    for view, depth_map in enumerate(found.depth_maps):
        assert depth_map is not None
        height, width = found.cameras.size_hw[view]
        assert (depth_map.depth.shape[0] > depth_map.depth.shape[1]) == (height > width)
    model = pycolmap.Reconstruction(result.output / "sparse/0")
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        with Image.open(result.output / "images" / image.name) as picture:
            assert picture.size == (camera.width, camera.height)


def test_known_poses_are_kept_in_the_model(scene, run, tmp_path):
    given = tmp_path / "given"
    sim = Sim3(2.5, Rotation.from_euler("xyz", [20, 40, -30], degrees=True).as_matrix(), np.array([5.0, -3, 2]))
    moved = replace(scene.reconstruction, cameras=scene.reconstruction.cameras.transformed(sim))
    moved = replace(moved, tracks=replace(moved.tracks, xyz=sim.apply(moved.tracks.xyz)))
    type(scene)(moved, scene.images).write_images(given / "images")
    write_colmap(moved, given)
    truth = pycolmap.Reconstruction(given / "sparse/0")
    result = run(poses=given / "sparse/0")
    model = pycolmap.Reconstruction(result.output / "sparse/0")
    wanted = {image.name: image.cam_from_world() for image in truth.images.values()}
    for image in model.images.values():
        pose = image.cam_from_world()
        np.testing.assert_allclose(pose.matrix(), wanted[image.name].matrix(), atol=1e-12)
    assert statuses(result) == ["verified"] * 3
    for camera in model.cameras.values():
        np.testing.assert_allclose(camera.calibration_matrix(), scene.reconstruction.cameras.K[0], rtol=1e-12)


def test_known_poses_in_one_place_still_make_a_scene(scene, run, tmp_path):
    given = tmp_path / "given"
    c2w = np.array(scene.reconstruction.cameras.c2w)
    c2w[:, :3, 3] = 1.0
    same = replace(scene.reconstruction, cameras=replace(scene.reconstruction.cameras, c2w=c2w))
    empty = {name: getattr(same.tracks, name)[:0] for name in type(same.tracks).__dataclass_fields__}
    same = replace(same, tracks=replace(same.tracks, **empty))
    type(scene)(same, scene.images).write_images(given / "images")
    write_colmap(same, given)
    result = run(poses=given / "sparse/0")
    assert statuses(result) == ["network-only"] * 3
    np.testing.assert_allclose(load_scene(result.output).cameras.centers, 1.0, atol=1e-12)


def rotating(count: int):
    """Photos from one place that look into different directions."""
    c2w = rigid(
        Rotation.from_euler("yx", [[7 * i, 2 * i] for i in range(count)], degrees=True).as_matrix(),
        np.zeros((count, 3)),
    )
    K = np.stack([intrinsics(260, (180, 240))] * count)
    cameras = Cameras(c2w, K, np.tile([180, 240], (count, 1)))
    return [_render(cameras, view, 0) for view in range(count)]


def smooth(count: int):
    y, x = np.mgrid[0:180, 0:240]
    return [np.repeat((40 + 0.3 * x + 0.2 * y + 10 * i)[..., None], 3, 2) for i in range(count)]


@pytest.mark.parametrize("refine", ["auto", "ba"])
@pytest.mark.parametrize(
    ("pictures", "status"),
    [
        (rotating, None),
        (smooth, "network-only"),
        (lambda count: [rotating(1)[0] // 2 + i for i in range(count)], "network-only"),
    ],
    ids=["turning-on-the-spot", "without-texture", "one-viewpoint"],
)
@pytest.mark.parametrize("count", [2, 3])
def test_photos_that_say_little_still_become_a_scene_with_verdicts(run, tmp_path, pictures, status, count, refine):
    folder = write(tmp_path / "hard", pictures(count))
    result = run(sources=(str(folder),), refine=refine)
    assert result.exit_code == 0 and len(statuses(result)) == count
    if status:
        assert set(statuses(result)) == {status}
    found = load_scene(result.output)
    assert len(found) == count and np.isfinite(found.cameras.c2w).all()
    assert {photo["reason"] != "" for photo in result.manifest["photos"] if photo["status"] != "verified"} <= {True}


def test_masked_out_pixels_take_no_part(run, photos, tmp_path):
    masks = tmp_path / "masks"
    mask = np.full((180, 240), 255, np.uint8)
    mask[:, :80] = 0
    masks.mkdir()
    for photo in photos.iterdir():
        Image.fromarray(mask).save(masks / f"{photo.name}.png")
    result = run(masks=masks)
    found = load_scene(result.output)
    assert len(found.tracks) > 20 and found.tracks.pixel[:, 0].min() > 78
    assert (result.output / "masks/photo_00.png.png").is_file()


def test_a_scene_that_can_not_start_leaves_no_folder(run, tmp_path):
    for options in ({"intrinsics": "35mm=x"}, {"poses": tmp_path / "none"}, {"device": "warp"}, {"max_memory": 1000}):
        with pytest.raises(FlareError):
            run(**options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_python_has_a_short_form(photos, tmp_path):
    result = reconstruct(photos, tmp_path / "scene", model="flare-test", exports=("colmap",), refine="none")
    assert (result.output / "sparse/0/images.bin").is_file()
    with pytest.raises(TypeError):
        reconstruct(photos, tmp_path / "scene", nonsense=1)
    listed = reconstruct(
        [photos / "photo_00.png", photos / "photo_01.png"],
        tmp_path / "two",
        model="flare-test",
        exports=(),
        refine="none",
    )
    assert len(listed.manifest["photos"]) == 2
