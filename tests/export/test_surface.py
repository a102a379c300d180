import numpy as np

from flarecli.export.surface import edges, far_limit, normals_from_depth, point_normals, trusted
from flarecli.geometry.projection import intrinsics, normalise, pixel_grid
from flarecli.scene.reconstruction import DepthMap
from tests.synthetic import SPHERE_CENTER, WALL_NORMAL


def plane_map(normal: np.ndarray, size_hw=(20, 30)) -> DepthMap:
    K = intrinsics(40.0, size_hw)
    rays = np.concatenate([normalise(K, pixel_grid(*size_hw)), np.ones((*size_hw, 1))], -1)
    return DepthMap(normal @ [0, 0, 5.0] / (rays @ normal), np.full(size_hw, 3.0), K)


def test_normals_of_a_plane_are_exact_and_face_the_camera():
    normal = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    found = normals_from_depth(plane_map(normal))
    np.testing.assert_allclose(found, np.broadcast_to(normal, found.shape), atol=1e-4)


def test_hole_and_step_do_not_bend_their_neighbours():
    normal = np.array([0, 0, -1.0])
    depth = plane_map(normal).depth.copy()
    depth[5, 5] = 0
    depth[:, 15:] = 9
    broken = DepthMap(depth, np.full(depth.shape, 3.0), plane_map(normal).K)
    found = normals_from_depth(broken)
    np.testing.assert_allclose(found[5, 4], normal, atol=1e-5)
    np.testing.assert_allclose(found[10, 14:16], [normal, normal], atol=1e-5)
    assert np.isfinite(found).all()
    rim = edges(broken)
    assert rim[10, 14] and rim[10, 15] and not rim[10, 13] and rim[5, 4] and rim[4, 5] and not rim[3, 5]


def test_trusted_leaves_out_sky_holes_and_low_confidence():
    flat = plane_map(np.array([0, 0, -1.0]))
    depth, confidence = flat.depth.copy(), flat.confidence.copy()
    depth[0, 0], depth[0, 10], confidence[10, 10] = 0, 100, 1.1
    keep = trusted(DepthMap(depth, confidence, flat.K), far=50)
    assert not keep[0, 0] and not keep[0, 10] and not keep[10, 10] and keep[15, 15]


def test_point_normals_of_the_scene(synthetic):
    reconstruction = synthetic.reconstruction
    normals = point_normals(reconstruction)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    points = reconstruction.points
    inner = points.confidence > 2
    from_center = points.xyz - SPHERE_CENTER
    radius = np.linalg.norm(from_center, axis=1)
    ball = inner & (radius < 0.905)
    assert np.median(np.sum(normals[ball] * from_center[ball] / radius[ball, None], 1)) > 0.99
    wall = inner & (radius > 1.2)
    assert np.percentile(normals[wall] @ WALL_NORMAL, 5) > 0.999
    assert 7 < far_limit(reconstruction) < 40
