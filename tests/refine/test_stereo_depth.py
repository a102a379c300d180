"""Depth maps measured between photos: right where photos agree, the network's elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flarecli.images.loading import load_photos
from flarecli.refine.stereo_depth import StereoOptions, choose_partners, stereo_depth
from tests.synthetic import make_scene

OPTIONS = StereoOptions(long_side=160, sources=3, threads=1)
MEASURED = 1.9  # confidence from which on a pixel counts as measured


def stereo(photos, exact, before, verified, on_progress=None):
    """Depth maps of all photos, all of them there."""
    found = stereo_depth(photos, exact.cameras, exact.tracks, before, np.array(verified), OPTIONS, on_progress)
    assert len(found) == len(photos)
    return [each for each in found if each is not None]


@pytest.fixture(scope="module")
def scene():
    return make_scene(4, (240, 320), num_tracks=300, arc_deg=24, depth_scale=0.5, k1=-0.05)


@pytest.fixture
def photos(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    return load_photos([tmp_path / "photos"]).photos


def rough(scene):
    """What a network might say: a fifth of the size, waves and noise of ten percent."""
    out = []
    for depth_map in scene.reconstruction.depth_maps:
        depth = depth_map.depth[2::5, 2::5]
        waves = np.exp(0.1 * np.sin(np.arange(depth.size).reshape(depth.shape) / 3.0))
        K = np.diag([depth.shape[1] / 160, depth.shape[0] / 120, 1]) @ depth_map.K
        out.append(replace(depth_map, depth=depth * waves, confidence=np.full(depth.shape, 3.0), K=K))
    return out


def test_measured_depth_is_exact_and_marked_by_its_confidence(scene, photos):
    exact, said = scene.reconstruction, []
    found = stereo(photos, exact, rough(scene), [True] * 4, lambda *step: said.append(step))
    for depth_map, truth in zip(found, exact.depth_maps, strict=True):
        assert depth_map.depth.shape == (120, 160)
        np.testing.assert_allclose(depth_map.K, truth.K)
        off = np.abs(depth_map.depth / truth.depth - 1)
        assert depth_map.measured is not None and (depth_map.confidence >= MEASURED)[depth_map.measured].all()
        measured = depth_map.measured & (truth.confidence > 2)
        assert measured.mean() > 0.5
        assert np.median(off[measured]) < 0.006 and np.percentile(off[measured], 95) < 0.03
        assert (depth_map.depth > 0).all()
    assert said == [("stereo", done, 4) for done in (1, 2, 3, 4)]


def test_photos_without_a_verified_camera_keep_their_map_and_help_nobody(scene, photos):
    exact, before = scene.reconstruction, rough(scene)
    verified = np.array([True, True, True, False])
    partners = choose_partners(exact.cameras, exact.tracks, verified, 3)
    assert sorted(partners) == [0, 1, 2] and all(3 not in others for others in partners.values())
    assert all(view not in others for view, others in partners.items())
    found = stereo(photos, exact, before, verified)
    assert found[3] is before[3] and found[0] is not before[0]
    nobody = stereo(photos, exact, before, [False] * 4)
    assert all(new is old for new, old in zip(nobody, before, strict=True))


def test_partners_share_points_at_a_useful_angle(scene):
    exact = make_scene(6, (96, 128), num_tracks=400, arc_deg=60, with_images=False).reconstruction
    best = choose_partners(exact.cameras, exact.tracks, np.ones(6, bool), 1)
    assert all(abs(view - others[0]) == 1 for view, others in best.items())
    still = replace(exact.cameras, c2w=np.tile(exact.cameras.c2w[:1], (6, 1, 1)))
    assert choose_partners(still, exact.tracks, np.ones(6, bool), 3) == {}


def test_without_a_map_before_only_the_measured_pixels_have_depth(scene, photos):
    exact = scene.reconstruction
    found = stereo(photos, exact, [None] * 4, [True] * 4)
    for depth_map in found:
        np.testing.assert_array_equal(depth_map.depth > 0, depth_map.confidence >= MEASURED)
        assert 0.4 < (depth_map.depth > 0).mean() < 1


def test_masked_pixels_have_no_depth(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    mask = np.full((240, 320), 255, np.uint8)
    mask[:, 240:] = 0
    for name in scene.reconstruction.image_names:
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    photos = load_photos([tmp_path / "photos"], masks=tmp_path / "masks").photos
    exact = scene.reconstruction
    found = stereo(photos, exact, rough(scene), [True] * 4)
    for depth_map in found:
        assert (depth_map.depth[:, 120:] == 0).all() and (depth_map.depth[:, :119] > 0).all()
