import dataclasses

import numpy as np
import open3d
import pytest
import trimesh
from scipy.spatial import cKDTree

from flarecli.errors import InputError
from flarecli.export.mesh import voxel_size, write_mesh, write_mesh_poisson
from flarecli.scene.reconstruction import DepthMap
from tests.synthetic import SPHERE_CENTER, SPHERE_RADIUS, WALL_NORMAL, WALL_POINT, texture


def distance_to_scene(xyz: np.ndarray) -> np.ndarray:
    ball = np.abs(np.linalg.norm(xyz - SPHERE_CENTER, axis=1) - SPHERE_RADIUS)
    return np.minimum(ball, np.abs((xyz - WALL_POINT) @ WALL_NORMAL))


def test_tsdf_surface_lies_on_the_scene_and_faces_the_cameras(synthetic, scene):
    mesh = open3d.io.read_triangle_mesh(str(scene / "mesh.ply"))
    xyz = np.asarray(mesh.vertices)
    voxel = voxel_size(
        [m.depth for m in synthetic.reconstruction.depth_maps], list(synthetic.reconstruction.depth_maps)
    )
    assert len(xyz) > 500
    off = distance_to_scene(xyz)
    # An error of half a pixel in the principal point moves the tilted wall by a seventh of a voxel.
    assert np.median(off) < 0.06 * voxel and np.percentile(off, 99) < 2 * voxel
    mesh.compute_triangle_normals()
    corners = xyz[np.asarray(mesh.triangles)].mean(1)
    toward = synthetic.reconstruction.cameras.centers.mean(0) - corners
    assert (np.sum(np.asarray(mesh.triangle_normals) * toward, 1) > 0).mean() > 0.98
    colour = np.asarray(mesh.vertex_colors)
    assert np.median(np.abs(colour - texture(xyz))) < 0.08


def test_glb_is_the_same_mesh_with_y_up(scene):
    flipped = trimesh.load(scene / "mesh.glb", force="mesh", process=False)
    ply = trimesh.load(scene / "mesh.ply", process=False)
    np.testing.assert_allclose(flipped.vertices, ply.vertices * [1, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(flipped.faces, ply.faces)
    assert flipped.volume * ply.volume > 0
    srgb = ply.visual.vertex_colors[:, :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    mesh = open3d.io.read_triangle_mesh(str(scene / "mesh.glb"))
    distance, index = cKDTree(flipped.vertices).query(np.asarray(mesh.vertices))
    assert distance.max() < 1e-6
    np.testing.assert_allclose(np.asarray(mesh.vertex_colors), linear[index], atol=1e-4)


def test_sky_and_floaters_are_cleaned(synthetic, scene):
    maps = []
    for part in synthetic.reconstruction.depth_maps:
        depth = part.depth.copy()
        depth[:8] = 400
        depth[30:32, 40:42] *= 0.3
        maps.append(DepthMap(depth, part.confidence, part.K))
    write_mesh(dataclasses.replace(synthetic.reconstruction, depth_maps=tuple(maps)), scene)
    xyz = np.asarray(open3d.io.read_triangle_mesh(str(scene / "mesh.ply")).vertices)
    assert len(xyz) > 500 and xyz[:, 2].max() < 10 and distance_to_scene(xyz).max() < 0.4


def test_empty_mesh_is_a_warning_not_a_crash(synthetic, scene, caplog):
    blank = [DepthMap(np.zeros((48, 64)), np.ones((48, 64)), part.K) for part in synthetic.reconstruction.depth_maps]
    assert write_mesh(dataclasses.replace(synthetic.reconstruction, depth_maps=tuple(blank)), scene) == []
    assert "no pixel" in caplog.text
    noise = np.random.default_rng(0).uniform(1, 9, (48, 64))
    rough = [DepthMap(noise, np.ones((48, 64)), part.K) for part in synthetic.reconstruction.depth_maps]
    assert write_mesh(dataclasses.replace(synthetic.reconstruction, depth_maps=tuple(rough)), scene) == []


def test_missing_input(synthetic, tmp_path):
    with pytest.raises(InputError, match="no depth maps"):
        write_mesh(dataclasses.replace(synthetic.reconstruction, depth_maps=()), tmp_path)
    with pytest.raises(InputError, match=r"photo_00\.png"):
        write_mesh(synthetic.reconstruction, tmp_path)


def test_voxels_grow_when_memory_would_not_do():
    K = np.array([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]])
    depth = np.full((1000, 1000), 2.0, np.float32)
    part = DepthMap(depth, depth, K)
    assert voxel_size([depth], [part]) == pytest.approx(1.5 * 0.002)
    many = voxel_size([depth] * 40, [part] * 40)
    shell_voxels = 40 * depth.size * 0.002**2 / many**2 * 26
    assert many > 1.5 * 0.002 and shell_voxels * 20 <= 1.51 * 2**30
    assert voxel_size([], []) == 0


def test_poisson(synthetic, tmp_path):
    paths = write_mesh_poisson(synthetic.reconstruction, tmp_path)
    assert [p.name for p in paths] == ["mesh.ply", "mesh.glb"]
    mesh = open3d.io.read_triangle_mesh(str(paths[0]))
    xyz = np.asarray(mesh.vertices)
    assert len(xyz) > 1000 and np.median(distance_to_scene(xyz)) < 0.02
    mesh.compute_vertex_normals()
    toward = synthetic.reconstruction.cameras.centers.mean(0) - xyz
    assert (np.sum(np.asarray(mesh.vertex_normals) * toward, 1) > 0).mean() > 0.95


def test_same_scene_same_bytes(synthetic, scene):
    before = (scene / "mesh.ply").read_bytes(), (scene / "mesh.glb").read_bytes()
    paths = write_mesh(synthetic.reconstruction, scene)
    assert tuple(path.read_bytes() for path in paths) == before
