"""Whole comparisons: every kind of file, which photos count, depth and points, wrong input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from flarecli.errors import InputError
from flarecli.evaluate.scene import evaluate_scene, sample_depth
from flarecli.evaluate.sources import read_cameras
from flarecli.export.archive import save_scene
from flarecli.geometry.transforms import Sim3, matrix_from_quats_wxyz
from flarecli.scene.reconstruction import PhotoVerdict
from tests.synthetic import make_scene

BENCH = Path(__file__).parents[2].parent / "shared" / "bench" / "dev"
MOVE = Sim3(3.0, matrix_from_quats_wxyz(np.array([0.4, 0.1, -0.6, 0.2])), np.array([4.0, -2.0, 7.0]))


@pytest.fixture(scope="module")
def truth():
    return make_scene(5, size_hw=(96, 128), arc_deg=40, k1=-0.05).reconstruction


def write_cameras_json(reconstruction, folder):
    folder.mkdir(parents=True)
    images = [
        {
            "name": name,
            "width": int(size[1]),
            "height": int(size[0]),
            "K": K.tolist(),
            "R": w2c[:3, :3].tolist(),
            "t": w2c[:3, 3].tolist(),
        }
        for name, size, K, w2c in zip(
            reconstruction.image_names,
            reconstruction.cameras.size_hw,
            reconstruction.cameras.K,
            reconstruction.cameras.w2c,
            strict=True,
        )
    ]
    (folder / "cameras.json").write_text(json.dumps({"images": images}))
    return folder


def write_transforms(reconstruction, path):
    frames = [
        {
            "file_path": f"images/{name}",
            "transform_matrix": (c2w @ np.diag([1.0, -1, -1, 1])).tolist(),
            "fl_x": K[0, 0],
            "fl_y": K[1, 1],
            "cx": K[0, 2],
            "cy": K[1, 2],
            "w": int(size[1]),
            "h": int(size[0]),
        }
        for name, c2w, K, size in zip(
            reconstruction.image_names,
            reconstruction.cameras.c2w,
            reconstruction.cameras.K,
            reconstruction.cameras.size_hw,
            strict=True,
        )
    ]
    path.write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
    return path


def write_colmap(folder, num=6):
    """A model that COLMAP's own synthesizer made and its own writer wrote."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, num
    model = pycolmap.synthesize_dataset(options)
    folder.mkdir(parents=True)
    model.write(str(folder))
    return model


def moved_copy(reconstruction):
    return replace(
        reconstruction,
        cameras=reconstruction.cameras.transformed(MOVE),
        points=replace(reconstruction.points, xyz=MOVE.apply(reconstruction.points.xyz)),
        tracks=replace(reconstruction.tracks, xyz=MOVE.apply(reconstruction.tracks.xyz)),
        depth_maps=tuple(replace(d, depth=d.depth * MOVE.scale) for d in reconstruction.depth_maps),
    )


def own_scene(reconstruction, folder):
    folder.mkdir(parents=True)
    save_scene(reconstruction, folder)
    return folder


def assert_perfect(numbers, photos):
    assert numbers["photos"] == numbers["registered"] == photos
    assert numbers["AUC@3"] == numbers["RRA@5"] == numbers["RTA@5"] == 100
    assert numbers["ate_relative"] < 1e-6
    assert numbers["focal_error_percent"] < 1e-9


def test_every_kind_of_file_describes_the_same_cameras(truth, tmp_path):
    scene = own_scene(moved_copy(truth), tmp_path / "scene")
    bench = write_cameras_json(truth, tmp_path / "bench")
    transforms = write_transforms(truth, tmp_path / "transforms.json")
    assert_perfect(evaluate_scene(scene, bench), 5)
    assert_perfect(evaluate_scene(scene, bench / "cameras.json"), 5)
    assert_perfect(evaluate_scene(scene, transforms), 5)
    assert_perfect(evaluate_scene(transforms, scene), 5)
    shutil.copy(transforms, tmp_path / "bench" / "named_otherwise.json")
    assert_perfect(evaluate_scene(tmp_path / "bench" / "named_otherwise.json", bench), 5)


def test_transforms_are_read_as_everywhere_else(truth, tmp_path):
    """Sizes from the photos, angles, 3 x 4 matrices, the file's own turn and scale of the world, one radial term."""
    content = json.loads(write_transforms(truth, tmp_path / "transforms.json").read_text())
    cameras = truth.cameras
    (tmp_path / "images").mkdir()
    turn = np.array([[1.0, 0, 0, 0.3], [0, 0, 1, 0], [0, -1, 0, -2]])
    for frame, size in zip(content["frames"], cameras.size_hw.tolist(), strict=True):
        Image.new("RGB", (size[1], size[0])).save(tmp_path / frame["file_path"])
        matrix = turn @ np.array(frame["transform_matrix"])
        matrix[:, 3] *= 4.0
        frame["transform_matrix"] = matrix.tolist()
        frame["camera_angle_x"] = 2 * np.arctan(size[1] / 2 / frame.pop("fl_x"))
        frame["camera_angle_y"] = 2 * np.arctan(size[0] / 2 / (1.25 * frame.pop("fl_y")))
        del frame["w"], frame["h"]
    content |= {"applied_transform": turn.tolist(), "applied_scale": 4.0, "k1": -0.05}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    read = read_cameras(tmp_path)
    for name, w2c, K, size in zip(truth.image_names, cameras.w2c, cameras.K, cameras.size_hw, strict=True):
        np.testing.assert_allclose(read.w2c[name], w2c, atol=1e-9)
        np.testing.assert_allclose(read.K[name], [K[0], [0, 1.25 * K[1, 1], K[1, 2]], [0, 0, 1]])
        assert read.size_hw[name] == tuple(size) and read.k1[name] == -0.05


def test_reads_models_that_colmap_wrote(tmp_path):
    model = write_colmap(tmp_path / "model" / "sparse" / "0")
    cameras = read_cameras(tmp_path / "model")
    assert sorted(cameras.w2c) == sorted(image.name for image in model.images.values())
    for image in model.images.values():
        np.testing.assert_allclose(cameras.w2c[image.name][:3], image.cam_from_world().matrix(), atol=1e-12)
    numbers = evaluate_scene(tmp_path / "model", tmp_path / "model" / "sparse" / "0")
    assert_perfect(numbers, 6)
    assert numbers["points"]["accuracy"] == pytest.approx(0, abs=1e-9)


def test_dropped_photos_of_our_scene_count_as_failures(truth, tmp_path):
    bench = write_cameras_json(truth, tmp_path / "bench")
    kept = replace(
        truth,
        image_names=truth.image_names[:4],
        cameras=truth.cameras.subset([0, 1, 2, 3]),
        points=replace(
            truth.points,
            **{
                name: getattr(truth.points, name)[truth.points.view_index < 4]
                for name in ("xyz", "rgb", "confidence", "view_index", "pixel")
            },
        ),
        tracks=make_scene(4, size_hw=(96, 128)).reconstruction.tracks,
        depth_maps=truth.depth_maps[:4],
        verdicts=(*truth.verdicts[:4], PhotoVerdict(truth.image_names[4], "dropped", "blurred")),
    )
    numbers = evaluate_scene(own_scene(kept, tmp_path / "scene"), bench)
    assert numbers["counted_by"] == "input photos of the scene"
    assert (numbers["photos"], numbers["registered"], numbers["missing"]) == (5, 4, [truth.image_names[4]])
    assert numbers["AUC@30"] == pytest.approx(60)
    only = evaluate_scene(tmp_path / "scene", bench, photos=list(truth.image_names[:4]))
    assert only["AUC@30"] == 100


def test_a_foreign_model_counts_its_own_photos_unless_all_are_asked_for(truth, tmp_path):
    bench = write_cameras_json(truth, tmp_path / "bench")
    transforms = write_transforms(truth, tmp_path / "transforms.json")
    content = json.loads(transforms.read_text())
    content["frames"] = content["frames"][1:4]
    transforms.write_text(json.dumps(content))
    assert evaluate_scene(transforms, bench)["photos"] == 3
    numbers = evaluate_scene(transforms, bench, photos="all")
    assert (numbers["photos"], numbers["registered"]) == (5, 3)
    assert numbers["RRA@30"] == pytest.approx(30)


def test_depth_is_read_at_the_right_pixels(truth, tmp_path):
    """The reference depth has twice the size of ours and the photo's lens; only a right pixel map gives no error."""
    bench = write_cameras_json(truth, tmp_path / "bench")
    exact = make_scene(5, size_hw=(96, 128), arc_deg=40, k1=0.0, depth_scale=1.0).reconstruction
    stack = np.stack([depth_map.depth for depth_map in exact.depth_maps])
    np.savez(bench / "depth.npz", depth=stack, names=np.array(exact.image_names))
    undistorted = replace(truth, cameras=replace(truth.cameras, k1=None))
    numbers = evaluate_scene(own_scene(moved_copy(undistorted), tmp_path / "scene"), bench)["depth"]
    assert numbers["photos"] == 5
    assert numbers["abs_rel"] < 0.01
    assert numbers["abs_rel_scene_scale"] < 0.01
    mirrored = replace(undistorted, depth_maps=tuple(replace(d, depth=d.depth[:, ::-1]) for d in truth.depth_maps))
    assert evaluate_scene(own_scene(mirrored, tmp_path / "mirrored"), bench)["depth"]["abs_rel"] > 0.03


def test_sampled_depth_follows_the_lens(truth):
    """A depth image whose value is its own column shows where each pixel was looked up."""
    columns = np.tile(np.arange(128) + 0.5, (96, 1))
    depth_map, K = truth.depth_maps[0], truth.cameras.K[0]
    straight = sample_depth(columns, depth_map, K, 0.0, (96, 128))
    height, width = depth_map.depth.shape
    expected = (np.arange(width) + 0.5) * 128 / width
    assert np.abs(straight - expected).max() <= 0.5
    bent = sample_depth(columns, depth_map, K, -0.2, (96, 128))
    middle = height // 2
    assert bent[middle, 0] > straight[middle, 0]
    assert bent[middle, -1] < straight[middle, -1]


def test_integer_depth_is_millimetres(truth, tmp_path):
    bench = write_cameras_json(truth, tmp_path / "bench")
    np.savez(bench / "depth.npz", depth=np.full((1, 4, 4), 2500, np.uint16), names=np.array([truth.image_names[0]]))
    assert read_cameras(bench).depth[truth.image_names[0]]()[0, 0] == 2.5


def test_depth_may_lie_under_the_names_of_the_photos(truth, tmp_path):
    bench = write_cameras_json(truth, tmp_path / "bench")
    np.savez(bench / "depth.npz", **{truth.image_names[1]: np.full((4, 4), 2.5, np.float16)})
    assert list(read_cameras(bench).depth) == [truth.image_names[1]]
    assert read_cameras(bench).depth[truth.image_names[1]]()[3, 3] == 2.5


def test_points_that_the_counted_photos_do_not_show_are_not_asked_for(truth, tmp_path):
    bench = write_cameras_json(truth, tmp_path / "bench")
    xyz = np.vstack([truth.points.xyz[::7], [[500.0, 0, 0]]])
    seen = np.repeat(np.arange(len(xyz) - 1), 2)
    views = np.tile([0, 1], len(xyz) - 1)
    np.savez(
        bench / "points.npz",
        xyz=xyz,
        obs_point=np.append(seen, len(xyz) - 1).astype(np.int32),
        obs_image=np.append(views, 4).astype(np.int32),
    )
    numbers = evaluate_scene(own_scene(moved_copy(truth), tmp_path / "scene"), bench)["points"]
    assert numbers["completion"] < 1e-4
    assert numbers["reference_points"] == len(xyz) - 1


def test_a_reference_may_name_the_files_that_the_scene_has_copies_of(truth, tmp_path):
    named = replace(truth, image_names=tuple(f"images/{Path(name).stem}.tif" for name in truth.image_names))
    bench = write_cameras_json(named, tmp_path / "bench")
    numbers = evaluate_scene(own_scene(moved_copy(truth), tmp_path / "scene"), bench)
    assert numbers["photos"] == len(truth) and numbers["AUC@5"] == 100
    assert numbers["missing"] == numbers["unmatched"] == []


def damaged_npz(folder):
    write = folder / "scene.npz"
    write.write_bytes(b"PK not an archive")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cameras.json", "{", "can't be read"),
        ("cameras.json", "[]", "JSON object"),
        ("cameras.json", '{"images": [{"name": "a"}]}', "can't be read"),
        ("cameras.json", '{"images": [{"name": "a", "R": [[1]], "t": [1, 2], "K": []}]}', "can't be read"),
        (
            "transforms.json",
            '{"w": 1, "h": 1, "fl_x": 1, "frames": [{"file_path": "a", "transform_matrix": [[1]]}]}',
            "4 x 4",
        ),
        ("transforms.json", '{"nothing": 1}', "no frames"),
        ("notes.txt", "hello", "no cameras"),
    ],
)
def test_damaged_input_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_cameras(tmp_path)


@pytest.mark.parametrize("name", ["points.npz", "depth.npz"])
def test_empty_files_beside_the_cameras_are_input_errors(truth, tmp_path, name):
    bench = write_cameras_json(truth, tmp_path / "bench")
    (bench / name).write_bytes(b"")
    with pytest.raises(InputError, match="bench can't be read: EOFError"):
        read_cameras(bench)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_colmap_files_are_named_and_cost_no_memory(tmp_path, name, share):
    write_colmap(tmp_path / "model")
    content = (tmp_path / "model" / name).read_bytes()
    (tmp_path / "model" / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=name):
        read_cameras(tmp_path / "model")


def test_wrong_paths_and_strangers_are_input_errors(truth, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_cameras(tmp_path / "nowhere")
    (tmp_path / "x.jpg").write_text("x")
    with pytest.raises(InputError, match=r"neither cameras\.json"):
        read_cameras(tmp_path / "x.jpg")
    bench = write_cameras_json(truth, tmp_path / "bench")
    write_colmap(tmp_path / "model")
    with pytest.raises(InputError, match="0 photos in common"):
        evaluate_scene(tmp_path / "model", bench)
    with pytest.raises(InputError, match=r"no photo stranger\.png"):
        evaluate_scene(bench, bench, photos=["stranger.png", *truth.image_names])
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    with pytest.raises(InputError, match=r"scene\.npz"):
        read_cameras(damaged_npz(damaged))


@pytest.mark.shared
def test_real_pack_against_itself():
    if not BENCH.exists():
        pytest.skip("the reference material is not beside the checkout")
    numbers = evaluate_scene(BENCH / "redkitchen", BENCH / "redkitchen")
    assert_perfect(numbers, 24)
    assert len(read_cameras(BENCH / "redkitchen").depth) == 24
    assert numbers["points"]["accuracy"] == pytest.approx(0, abs=1e-9)
