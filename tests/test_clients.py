"""Other people's programs open a reconstructed scene as it is: the promise of the README on rendered photos."""

import importlib.util
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import plyfile
import pycolmap
import pytest
from PIL import Image

import flarecli
from flarecli.export.colmap_read import read_colmap
from flarecli.geometry.transforms import align_cameras, rotation_angle_deg
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Reconstruction
from tests.export.test_colmap_programs import colmap

PHOTOS = sorted((Path(__file__).parents[1] / "examples/photos").glob("*.jpg"))[:5]
needs_colmap = pytest.mark.skipif(shutil.which("colmap") is None, reason="the program colmap is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five example photos, refined with the quick preset."""
    result = flarecli.reconstruct(PHOTOS, tmp_path_factory.mktemp("clients") / "scene", preset="fast")
    assert {photo["status"] for photo in result.manifest["photos"]} == {"verified"}
    return result.output


@pytest.fixture(scope="module")
def scene(folder) -> Reconstruction:
    return flarecli.load_scene(folder)


def moved(before: Cameras, after: Cameras) -> tuple[float, float]:
    """Largest turn in degrees and largest shift as a share of the extent of the cameras, after the best similarity."""
    aligned = align_cameras(after.c2w, before.c2w).apply_to_c2w(after.c2w)
    shift = np.linalg.norm(aligned[:, :3, 3] - before.centers, axis=1).max()
    extent = np.linalg.norm(before.centers - before.centers.mean(0), axis=1).max()
    return float(rotation_angle_deg(aligned[:, :3, :3], before.c2w[:, :3, :3]).max()), float(shift / extent)


@needs_colmap
@pytest.mark.parametrize("free_focal", ["1", "0"])
def test_the_bundle_adjuster_of_colmap_hardly_moves_the_cameras(folder, scene, tmp_path, free_focal):
    colmap(
        *("bundle_adjuster", "--input_path", folder / "sparse/0", "--output_path", tmp_path),
        *("--BundleAdjustment.refine_focal_length", free_focal),
    )
    adjusted = read_colmap(tmp_path)
    assert adjusted.names == scene.image_names
    turn, shift = moved(scene.cameras, adjusted.cameras)
    assert turn < 0.15 and shift < 0.005
    assert np.abs(adjusted.cameras.focal_px / scene.cameras.focal_px - 1).max() < 0.005


@needs_colmap
def test_colmap_triangulates_features_of_its_own_with_the_cameras(folder, scene, tmp_path):
    database, images = tmp_path / "features.db", folder / "images"
    colmap(
        *("feature_extractor", "--database_path", database, "--image_path", images),
        *("--ImageReader.camera_model", "PINHOLE"),
        *("--SiftExtraction.use_gpu", "0", "--SiftExtraction.max_num_features", "1500"),
    )
    colmap("exhaustive_matcher", "--database_path", database, "--SiftMatching.use_gpu", "0")
    (tmp_path / "out").mkdir()
    colmap(
        *("point_triangulator", "--database_path", database, "--image_path", images, "--clear_points", "1"),
        *("--input_path", folder / "sparse/0", "--output_path", tmp_path / "out"),
    )
    model = pycolmap.Reconstruction(str(tmp_path / "out"))
    model.update_point_3d_errors()
    assert model.num_reg_images() == len(scene) and model.num_points3D() > 200
    assert model.compute_mean_reprojection_error() < 0.8


@needs_colmap
def test_colmap_converts_and_undistorts(folder, scene, tmp_path):
    for kind, name in (("PLY", "model.ply"), ("NVM", "model.nvm")):
        colmap(
            *("model_converter", "--input_path", folder / "sparse/0"),
            *("--output_path", tmp_path / name, "--output_type", kind),
        )
    assert plyfile.PlyData.read(tmp_path / "model.ply")["vertex"].count == len(scene.tracks)
    colmap(
        *("image_undistorter", "--image_path", folder / "images", "--input_path", folder / "sparse/0"),
        *("--output_path", tmp_path / "dense"),
    )
    for name in scene.image_names:
        with Image.open(folder / "images" / name) as ours, Image.open(tmp_path / "dense/images" / name) as theirs:
            # Ideal pinholes stay as they are, but for the bitmap being saved once more.
            assert ours.size == theirs.size
            assert np.abs(np.asarray(ours, np.float64) - np.asarray(theirs)).mean() < 3


def test_pycolmap_adjusts_the_model_and_hardly_moves_it(folder, scene, tmp_path):
    model = pycolmap.Reconstruction(str(folder / "sparse/0"))
    assert model.num_reg_images() == len(scene) and model.num_points3D() == len(scene.tracks)
    stored = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() == pytest.approx(stored, rel=1e-6)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    pycolmap.bundle_adjustment(model, options)
    model.write(str(tmp_path))
    turn, shift = moved(scene.cameras, read_colmap(tmp_path).cameras)
    assert turn < 0.15 and shift < 0.005


def test_what_gsplat_reads_is_there(folder, scene):
    """The rules of the COLMAP parser among gsplat's examples (examples/datasets/colmap.py of version 1.5)."""
    model = pycolmap.Reconstruction(str(folder / "sparse/0"))
    names = sorted(image.name for image in model.images.values())
    # It pairs the sorted names with the sorted files of images/, so nothing else may lie there.
    files = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.*"))
    assert names == files
    seen = defaultdict(list)
    for image in model.images.values():
        camera = image.camera
        assert camera.model == pycolmap.CameraModelId.PINHOLE
        with Image.open(folder / "images" / image.name) as picture:
            assert picture.size == (camera.width, camera.height) and picture.mode == "RGB"
            assert picture.getexif().get(0x112, 1) == 1
        for point in image.get_observation_points2D():
            seen[image.name].append(model.points3D[point.point3D_id].xyz)
        xyz = np.array(seen[image.name])
        depth = (xyz @ image.cam_from_world().matrix()[:, :3].T + image.cam_from_world().matrix()[:, 3])[:, 2]
        assert len(xyz) >= 15 and (depth > 0).all()
    assert all(point.color.any() for point in list(model.points3D.values())[:50])
    assert len(seen) == len(scene)


@pytest.mark.skipif(
    importlib.util.find_spec("nerfstudio") is None,
    reason="nerfstudio is not installed; it needs an environment of its own",
)
def test_the_parsers_of_nerfstudio_agree_with_us_and_each_other(folder, scene):
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig  # type: ignore[import-not-found]
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import (  # type: ignore[import-not-found]
        NerfstudioDataParserConfig,
    )

    asked = {"data": folder, "eval_mode": "all", "downscale_factor": 1, "load_3D_points": True}
    as_is = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    colmap_parser = ColmapDataParserConfig(**asked, **as_is, colmap_path=Path("sparse/0"), images_path=Path("images"))
    for parser in (colmap_parser, NerfstudioDataParserConfig(**asked, **as_is)):
        outputs = parser.setup().get_dataparser_outputs(split="train")
        assert [path.name for path in outputs.image_filenames] == [Path(name).name for name in scene.image_names]
        points, poses = outputs.metadata["points3D_xyz"].numpy(), outputs.cameras.camera_to_worlds.numpy()
        assert len(points) == len(scene.tracks)
        for view, pose in enumerate(poses):
            local = (points - pose[:, 3]) @ pose[:, :3] * [1, -1, -1]  # its cameras are OpenGL's
            mine = scene.tracks.xyz @ scene.cameras.w2c[view, :3, :3].T + scene.cameras.w2c[view, :3, 3]
            np.testing.assert_allclose(np.sort(local[:, 2]), np.sort(mine[:, 2]), rtol=1e-3, atol=1e-3)
            assert outputs.cameras.fx[view].item() == pytest.approx(scene.cameras.K[view, 0, 0], rel=1e-6)
        assert (poses[:, 2, 1] > 0.5).all()  # the cameras' up is the world's z


def test_meshes_and_points_open_in_trimesh_and_open3d(folder, scene):
    trimesh, o3d = pytest.importorskip("trimesh"), pytest.importorskip("open3d")
    mesh, scene_glb = trimesh.load(folder / "mesh.ply", process=False), trimesh.load(folder / "mesh.glb")
    (node,) = scene_glb.geometry.values()
    assert len(mesh.faces) == len(node.faces) > 1000
    np.testing.assert_allclose(mesh.bounds[:, 0], node.bounds[:, 0], rtol=1e-5, atol=1e-5)
    assert np.asarray(mesh.visual.vertex_colors)[:, :3].std() > 10
    opened = o3d.io.read_triangle_mesh(str(folder / "mesh.ply"))
    assert opened.has_vertex_colors() and opened.has_vertex_normals() and len(opened.triangles) == len(mesh.faces)
    cloud = o3d.io.read_point_cloud(str(folder / "points.ply"))
    assert len(cloud.points) == len(scene.points) and cloud.has_colors()


def test_gaussians_have_the_columns_that_3dgs_reads(folder, scene):
    vertex = plyfile.PlyData.read(folder / "gaussians.ply")["vertex"]
    names = [each.name for each in vertex.properties]
    assert names[:3] == ["x", "y", "z"] and names[-8:] == [
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]
    assert {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(names)
    assert np.ptp(vertex["opacity"]) > 0 and all(np.isfinite(vertex[name]).all() for name in names)
    extent = np.linalg.norm(scene.cameras.centers - scene.cameras.centers.mean(0), axis=1).max()
    assert np.exp(np.median(vertex["scale_0"])) < 0.1 * extent


def test_the_mesh_shows_what_the_photos_show(folder, scene):
    """Rays through the middle of a photo hit a surface of about the colour of their pixel: no floaters."""
    o3d = pytest.importorskip("open3d")
    mesh = o3d.io.read_triangle_mesh(str(folder / "mesh.ply"))
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    colours, faces = np.asarray(mesh.vertex_colors), np.asarray(mesh.triangles)
    for view in range(len(scene)):
        K, c2w, (height, width) = scene.cameras.K[view], scene.cameras.c2w[view], scene.cameras.size_hw[view]
        x, y = np.meshgrid(np.arange(0.3, 0.7, 0.02) * width, np.arange(0.35, 0.75, 0.02) * height)
        ray = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1) @ c2w[:3, :3].T
        rays = np.concatenate([np.broadcast_to(c2w[:3, 3], ray.shape), ray], -1).astype(np.float32)
        answer = caster.cast_rays(o3d.core.Tensor(rays))
        hit = np.isfinite(answer["t_hit"].numpy())
        assert hit.mean() > 0.5, (view, os.fspath(folder))
        shown = colours[faces[answer["primitive_ids"].numpy()[hit]]].mean(1) * 255
        with Image.open(folder / "images" / scene.image_names[view]) as picture:
            # blurred, because a voxel of the mesh covers several pixels of the photo
            small = np.asarray(picture.convert("RGB").reduce(8), np.float64)
        photo = small[
            (y[hit] / 8).astype(int).clip(0, small.shape[0] - 1), (x[hit] / 8).astype(int).clip(0, small.shape[1] - 1)
        ]
        assert np.corrcoef(shown.ravel(), photo.ravel())[0, 1] > 0.7
