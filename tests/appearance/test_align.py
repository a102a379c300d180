"""A camera that is off finds back to where its photo was taken."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flarecli.appearance.align import align_camera
from flarecli.appearance.photos import View, show
from flarecli.appearance.poses import moved_cameras
from flarecli.export.splats import gaussians_from_points
from flarecli.geometry.transforms import rotation_angle_deg
from flarecli.render.splats import Splats
from tests.synthetic import make_scene

DEPTH = 4.0


@pytest.fixture(scope="module")
def splats():
    return Splats.of(gaussians_from_points(make_scene(4, (96, 128), num_tracks=60, arc_deg=20).reconstruction))


@pytest.fixture(scope="module")
def view(splats):
    """What a camera sees of the Gaussians themselves, as a photo without error."""
    cameras = make_scene(4, (96, 128), num_tracks=60, arc_deg=20).reconstruction.cameras
    w2c, K = (torch.tensor(each[1], dtype=torch.float32) for each in (cameras.w2c, cameras.K))
    empty = View("photo", torch.zeros(96, 128, 3), torch.ones(96, 128), w2c, K)
    with torch.no_grad():
        return replace(empty, rgb=show(splats, empty).color[0])


def off(found, true):
    """Rotation in degrees, and the distance of the centres over the depth of the scene."""
    a, b = (np.linalg.inv(each.w2c.double().numpy()) for each in (found, true))
    return float(rotation_angle_deg(a[:3, :3], b[:3, :3])), float(np.linalg.norm(a[:3, 3] - b[:3, 3])) / DEPTH


def disturbed(view, degrees, seed):
    generator = np.random.default_rng(seed)
    turn, shift = (v / np.linalg.norm(v) * np.deg2rad(degrees) for v in generator.normal(size=(2, 3)))
    move = torch.tensor(np.concatenate([turn, shift])[None], dtype=torch.float32)
    return replace(view, w2c=moved_cameras(view.w2c[None], move, DEPTH)[0])


@pytest.mark.parametrize(("degrees", "seed"), [(0.5, 0), (2, 2), (3, 3), (5, 2)])
def test_a_disturbed_camera_is_found_again(splats, view, degrees, seed):
    wrong = disturbed(view, degrees, seed)
    assert off(wrong, view)[0] == pytest.approx(degrees, rel=0.01)
    aligned = align_camera(splats, wrong)
    angle, shift = off(aligned.view, view)
    assert angle < 0.1 and shift < 0.002
    assert aligned.loss_after < 0.021 < aligned.loss_before  # the structure term ends at 0.98
    assert torch.equal(aligned.view.rgb, view.rgb) and aligned.view.name == "photo"


def test_another_exposure_does_not_mislead_it(splats, view):
    darker = replace(disturbed(view, 2, 1), rgb=0.8 * view.rgb + 0.05)
    assert off(align_camera(splats, darker).view, view)[0] < 0.3


def test_it_never_ends_worse_than_it_began(splats, view):
    noise = torch.rand(96, 128, 3, generator=torch.Generator().manual_seed(0))
    for photo in (noise, torch.zeros_like(noise), view.rgb.flip(0)):
        aligned = align_camera(splats, replace(view, rgb=photo))
        assert np.isfinite(aligned.loss_after) and aligned.loss_after <= aligned.loss_before
        assert torch.isfinite(aligned.view.w2c).all()
        if aligned.loss_after == aligned.loss_before:
            assert torch.equal(aligned.view.w2c, view.w2c)


def test_a_camera_that_sees_nothing_stays(splats, view):
    away = replace(view, w2c=torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ view.w2c)
    assert torch.equal(align_camera(splats, away).view.w2c, away.w2c)


def test_masked_pixels_do_not_count(splats, view):
    spoilt, weight = view.rgb.clone(), torch.ones(96, 128)
    spoilt[20:70, 30:80] = torch.tensor([1.0, 0, 1])
    weight[20:70, 30:80] = 0
    wrong = disturbed(view, 2, 1)
    found = align_camera(splats, replace(wrong, rgb=spoilt, weight=weight)).view
    # Blurring carries some of what is masked into its surroundings, so this is a little less exact.
    assert off(found, view)[0] < 0.3
