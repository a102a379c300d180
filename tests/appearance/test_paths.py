import dataclasses

import numpy as np
import pytest

from flarecli.appearance.paths import make_path
from flarecli.geometry.transforms import invert_rigid, rotation_angle_deg
from flarecli.scene.cameras import Cameras
from tests.synthetic import SPHERE_CENTER


@pytest.mark.parametrize("kind", ["orbit", "between", "spiral"])
def test_every_path_is_smooth_and_sees_the_scene(exact, kind):
    path = make_path(kind, exact.reconstruction, 40, (60, 80))
    assert path.w2c.shape == (40, 4, 4) and path.K.shape == (40, 3, 3)
    c2w = invert_rigid(path.w2c)
    Cameras(c2w, path.K, np.tile([60, 80], (40, 1)))  # refuses what is no camera
    steps = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.6 and rotation_angle_deg(c2w[1:, :3, :3], c2w[:-1, :3, :3]).max() < 8
    seen = path.w2c @ np.append(SPHERE_CENTER, 1)
    assert seen[:, 2].min() > 1
    pixel = np.einsum("fij,fj->fi", path.K, seen[:, :3] / seen[:, 2:3])
    assert (np.abs(pixel[:, :2] - [40, 30]) < [40, 30]).all()


def test_between_passes_through_the_cameras(exact):
    cameras = exact.reconstruction.cameras
    c2w = invert_rigid(make_path("between", exact.reconstruction, 9, (60, 80)).w2c)
    np.testing.assert_allclose(c2w[::2], cameras.c2w, atol=1e-9)


def test_orbit_swings_over_an_arc_and_circles_a_ring(exact):
    def span(reconstruction):
        c2w = invert_rigid(make_path("orbit", reconstruction, 36, (60, 80)).w2c)
        forward = c2w[:, :3, 2]
        return np.degrees(np.arccos(np.clip(forward @ forward.T, -1, 1))).max()

    assert span(exact.reconstruction) < 60
    ring = []
    for angle in np.linspace(0, 2 * np.pi, 6)[:5]:
        turn = np.eye(4)
        turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        turn[:3, 3] = SPHERE_CENTER - turn[:3, :3] @ SPHERE_CENTER
        ring.append(turn)
    around = dataclasses.replace(exact.reconstruction.cameras, c2w=np.stack(ring))
    assert span(dataclasses.replace(exact.reconstruction, cameras=around)) > 170
