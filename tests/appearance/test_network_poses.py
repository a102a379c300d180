"""Cameras of a network without a pose head, from the Gaussians of two windows and three photos."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flarecli.appearance.network_poses import fit_network_poses
from flarecli.appearance.photos import View, show
from flarecli.export.splats import gaussians_from_points
from flarecli.geometry.transforms import invert_rigid, rigid, rotation_angle_deg
from flarecli.images.preparing import Prepared
from flarecli.render.splats import Splats
from flarecli.scene.views import Views
from tests.synthetic import make_scene

SIZE = (96, 128)
WINDOWS = [[1, 0], [0, 2]]


@pytest.fixture(scope="module")
def scene():
    return make_scene(3, SIZE, num_tracks=60, arc_deg=16).reconstruction


@pytest.fixture(scope="module")
def per_photo(scene):
    """Gaussians of every photo in the frame of its camera."""
    whole, photo = gaussians_from_points(scene), scene.points.view_index
    return [whole.select(photo == view).moved(pose) for view, pose in enumerate(scene.cameras.w2c)]


def prepared_of(scene, per_photo):
    """What the Gaussians of each photo's window look like from its true camera, as photos."""
    world = [part.moved(pose) for part, pose in zip(per_photo, scene.cameras.c2w, strict=True)]
    pictures = []
    for photo, window in enumerate([WINDOWS[0], WINDOWS[0], WINDOWS[1]]):
        both = [Splats.of(world[each]) for each in window]
        splats = Splats(*(torch.cat([getattr(s, f.name) for s in both]) for f in dataclasses.fields(Splats)))
        w2c, K = (torch.tensor(each[photo]).float() for each in (scene.cameras.w2c, scene.cameras.K))
        view = View("", torch.zeros(*SIZE, 3), torch.ones(SIZE), w2c, K)
        with torch.no_grad():
            pictures.append(show(splats, view).color[0].permute(2, 0, 1).clamp(0, 1))
    return Prepared(Views(torch.stack(pictures), torch.zeros(3, dtype=torch.bool)), np.stack([np.eye(3)] * 3))


def disturb(c2w, degrees=2.0):
    """Every camera turned and shifted; a network's Gaussians would not follow it."""
    generator = np.random.default_rng(0)
    out = np.array(c2w)
    for view in range(len(out)):
        turn, shift = (v / np.linalg.norm(v) for v in generator.normal(size=(2, 3)))
        out[view] = out[view] @ rigid(Rotation.from_rotvec(np.deg2rad(degrees) * turn).as_matrix(), 0.08 * shift)
    return out


def test_disturbed_cameras_are_found_and_the_reference_stays(scene, per_photo):
    true = scene.cameras.c2w
    wrong = disturb(true)
    wrong[1] = true[1]
    held = [part.moved(invert_rigid(b) @ a) for part, a, b in zip(per_photo, true, wrong, strict=True)]
    prepared = prepared_of(scene, per_photo)
    found, note = fit_network_poses(held, wrong, scene.cameras.K, prepared, WINDOWS, torch.device("cpu"))
    np.testing.assert_array_equal(found[1], true[1])
    assert rotation_angle_deg(wrong[[0, 2], :3, :3], true[[0, 2], :3, :3]).min() > 1.9
    assert rotation_angle_deg(found[:, :3, :3], true[:, :3, :3]).max() < 0.1
    assert np.linalg.norm(found[:, :3, 3] - true[:, :3, 3], axis=1).max() < 0.02
    assert note["photos"] == 2 and note["loss"][1] < 0.5 * note["loss"][0]
    assert note["largest_turn_deg"] == pytest.approx(2, abs=0.1)


def test_true_cameras_stay_where_they_are(scene, per_photo):
    true = scene.cameras.c2w
    found, note = fit_network_poses(
        per_photo, true, scene.cameras.K, prepared_of(scene, per_photo), WINDOWS, torch.device("cpu")
    )
    np.testing.assert_allclose(found, true, atol=1e-4)
    assert note["loss"][1] <= note["loss"][0]


def test_portrait_views_and_masks_are_read_from_their_storage(scene, per_photo):
    upright = prepared_of(scene, per_photo)
    square = upright.views.rgb[..., 16:112]
    K = np.array(scene.cameras.K)
    K[:, 0, 2] -= 16
    spoilt = square.clone()
    spoilt[0, :, :, 60:] = torch.rand(3, 96, 36, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 96, 96, dtype=torch.bool)
    masks[0, :, 60:] = False
    stored = torch.cat([spoilt[:1].transpose(-1, -2), spoilt[1:]])
    views = Views(stored, torch.tensor([True, False, False]))
    turned = torch.cat([masks[:1].transpose(-1, -2), masks[1:]])
    wrong = np.array(scene.cameras.c2w)
    wrong[0] = disturb(wrong)[0]
    held = [part.moved(invert_rigid(b) @ a) for part, a, b in zip(per_photo, scene.cameras.c2w, wrong, strict=True)]
    prepared = Prepared(views, upright.prepared_from_photo, turned)
    found, _ = fit_network_poses(held, wrong, K, prepared, WINDOWS, torch.device("cpu"))
    assert rotation_angle_deg(found[0, :3, :3], scene.cameras.c2w[0, :3, :3]) < 0.5
