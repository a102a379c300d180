"""Refinement of a whole reconstruction on rendered photos."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flarecli.geometry.projection import map_pixels, project
from flarecli.images.loading import load_photos
from flarecli.refine.features import extract_features
from flarecli.refine.run import RefineOptions, choose_pairs, refine
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import PhotoVerdict, Reconstruction
from tests.synthetic import SyntheticScene, make_scene

from .exact import pose_errors, shaken

OPTIONS = RefineOptions(preset="fast", threads=1)


@pytest.fixture(scope="module")
def scene() -> SyntheticScene:
    return make_scene(4, (240, 320), num_tracks=100, depth_scale=0.25)


@pytest.fixture
def photos(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    return load_photos([tmp_path / "photos"]).photos


def priors_of(cameras: Cameras, sigma: float = 0.0, c2w: np.ndarray | None = None) -> Priors:
    count = len(cameras)
    assert cameras.k1 is not None
    return Priors(np.zeros(count), cameras.size_hw, cameras.K, np.full(count, sigma), cameras.k1, c2w)


def predicted(scene: SyntheticScene, degrees: float = 20.0) -> Reconstruction:
    """What a network might have made: cameras off by so much, depth of another scale, no tracks."""
    exact = scene.reconstruction
    empty = replace(
        exact.tracks,
        **{name: getattr(exact.tracks, name)[:0] for name in type(exact.tracks).__dataclass_fields__},
    )
    c2w = shaken(exact.cameras.c2w, degrees, 0.3 * degrees / 20)
    depth = tuple(replace(each, depth=each.depth * 1.7) for each in exact.depth_maps if each)
    verdicts = tuple(PhotoVerdict(name, "network-only", "not checked") for name in exact.image_names)
    cameras = replace(exact.cameras, c2w=c2w)
    return replace(exact, cameras=cameras, depth_maps=depth, tracks=empty, verdicts=verdicts, confidence=0.0)


def test_cameras_wrong_by_twenty_degrees_are_verified_and_right(scene, photos):
    truth, said = scene.reconstruction, []
    found = refine(predicted(scene), photos, priors_of(truth.cameras), OPTIONS, lambda *step: said.append(step[0]))
    assert {verdict.status for verdict in found.verdicts} == {"verified"}
    assert all(verdict.inliers > 20 and (verdict.reprojection_px or 9) < 0.5 for verdict in found.verdicts)
    angle, offset = pose_errors(found.cameras.c2w, truth.cameras.c2w)
    assert angle < 0.3 and offset < 0.05
    np.testing.assert_allclose(found.cameras.c2w[0], np.eye(4), atol=1e-9)
    np.testing.assert_array_equal(found.cameras.K, truth.cameras.K)
    assert found.confidence > 0.5
    assert set(said) >= {"features", "matching", "adjusting", "stereo"}
    # the size of the scene is still that of the network's
    wanted = np.linalg.norm(predicted(scene).cameras.centers - predicted(scene).cameras.centers.mean(0))
    assert np.linalg.norm(found.cameras.centers - found.cameras.centers.mean(0)) == pytest.approx(wanted)
    # tracks project where they were seen, and the depth maps pass through them
    for view in range(4):
        seen = found.tracks.view_index == view
        pixel, depth = project(
            found.tracks.xyz[found.tracks.point_index[seen]], found.cameras.w2c[view], found.cameras.K[view]
        )
        assert np.median(np.linalg.norm(pixel - found.tracks.pixel[seen], axis=1)) < 0.5
        depth_map = found.depth_maps[view]
        assert depth_map is not None
        at = (map_pixels(depth_map.K @ np.linalg.inv(found.cameras.K[view]), pixel)).astype(int)
        at = at.clip(0, np.array(depth_map.depth.shape)[::-1] - 1)
        assert np.median(np.abs(np.log(depth_map.depth[at[:, 1], at[:, 0]] / depth))) < 0.02


def test_a_photo_of_something_else_stays_network_only(scene, photos, tmp_path):
    other = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(other).resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "photos/photo_03.png")
    photos = load_photos([tmp_path / "photos"]).photos
    found = refine(predicted(scene), photos, priors_of(scene.reconstruction.cameras), OPTIONS)
    assert [verdict.status for verdict in found.verdicts] == ["verified"] * 3 + ["network-only"]
    assert found.verdicts[3].reason and found.verdicts[3].reprojection_px is None
    assert pose_errors(found.cameras.c2w[:3], scene.reconstruction.cameras.c2w[:3])[0] < 0.3
    assert 3 not in found.tracks.view_index and len(found) == 4


@pytest.fixture
def two(scene, tmp_path):
    """Two photos, and what a network says of them."""
    scene.write_images(tmp_path / "photos")
    for name in scene.reconstruction.image_names[2:]:
        (tmp_path / "photos" / name).unlink()
    photos, whole = load_photos([tmp_path / "photos"]).photos, predicted(scene)
    none = whole.points
    empty = replace(none, **{name: getattr(none, name)[:0] for name in type(none).__dataclass_fields__})
    cameras = whole.cameras.subset([0, 1])
    return photos, replace(
        whole, image_names=whole.image_names[:2], cameras=cameras, depth_maps=whole.depth_maps[:2], points=empty
    )


def test_two_photos_of_unknown_focal_length_are_not_certain(two):
    photos, initial = two
    known = refine(initial, photos, priors_of(initial.cameras), OPTIONS).confidence
    guessed = refine(initial, photos, priors_of(initial.cameras, sigma=0.35), OPTIONS).confidence
    assert 0 < guessed <= 0.7 < known


def test_the_better_start_is_asked_for_only_where_features_do_not_convince(scene, photos, tmp_path):
    asked = []

    def better() -> Reconstruction:
        asked.append(True)
        return predicted(scene)

    priors = priors_of(scene.reconstruction.cameras)
    refine(predicted(scene), photos, priors, OPTIONS, better=better)
    assert not asked
    for index, name in enumerate(scene.reconstruction.image_names):
        column = np.linspace(40 + 10 * index, 180, 320)
        Image.fromarray(np.tile(column[None, :, None], (240, 1, 3)).astype(np.uint8)).save(tmp_path / "photos" / name)
    plain = load_photos([tmp_path / "photos"]).photos
    found = refine(predicted(scene, 60.0), plain, priors, OPTIONS, better=better)
    assert len(asked) == 1
    assert pose_errors(found.cameras.c2w, predicted(scene).cameras.c2w)[0] < 1e-4


def test_the_direct_focal_length_is_the_second_opinion(two):
    photos, initial = two
    priors = priors_of(initial.cameras, sigma=0.35)

    def focal(factor: float) -> float:
        K = np.array(initial.cameras.K)
        K[:, :2, :2] *= factor
        direct = replace(initial, cameras=replace(initial.cameras, K=K))
        return float(refine(direct, photos, priors, OPTIONS, better=lambda: initial).cameras.K[0, 0, 0])

    assert focal(0.5) < focal(1.0) < focal(2.0)


@pytest.mark.parametrize("matches", [True, False])
def test_poses_that_were_solved_keep_the_focal_length_they_were_solved_with(two, tmp_path, matches):
    """Where photos say nothing, the answer of the network's own matches stands as a whole."""
    photos, initial = two
    if not matches:
        (tmp_path / "plain").mkdir()
        for index in range(2):
            column = np.linspace(40 + 10 * index, 180, 320)
            smooth = np.tile(column[None, :, None], (240, 1, 3)).astype(np.uint8)
            Image.fromarray(smooth).save(tmp_path / "plain" / f"{index}.png")
        photos = load_photos([tmp_path / "plain"]).photos
        initial = replace(initial, image_names=tuple(photo.name for photo in photos))
    K = np.array(initial.cameras.K)
    K[:, :2, :2] *= 1.5
    solved = replace(initial, cameras=replace(initial.cameras, K=K))
    found = refine(initial, photos, priors_of(initial.cameras, sigma=0.35), OPTIONS, better=lambda: solved)
    if matches:
        assert found.cameras.K[0, 0, 0] < 1.4 * initial.cameras.K[0, 0, 0]
    else:
        np.testing.assert_array_equal(found.cameras.K, K)
        assert {verdict.status for verdict in found.verdicts} == {"network-only"}


def test_known_poses_come_back_bit_by_bit(scene, photos):
    c2w = np.array(scene.reconstruction.cameras.c2w)
    c2w[:, :3, 3] = 3 * c2w[:, :3, 3] + [1.0, 2.0, 3.0]
    cameras = replace(scene.reconstruction.cameras, c2w=c2w)
    initial = replace(predicted(scene), cameras=cameras)
    found = refine(initial, photos, priors_of(cameras, c2w=c2w), OPTIONS)
    np.testing.assert_array_equal(found.cameras.c2w, c2w)
    assert {verdict.status for verdict in found.verdicts} == {"verified"}


def test_blank_photos_keep_everything_the_network_made(scene, tmp_path):
    for index in range(3):
        column = np.linspace(40 + 10 * index, 180, 320)
        Image.fromarray(np.tile(column[None, :, None], (240, 1, 3)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    photos = load_photos([tmp_path]).photos
    whole = predicted(scene)
    initial = replace(
        whole,
        image_names=tuple(photo.name for photo in photos),
        cameras=whole.cameras.subset([0, 1, 2]),
        depth_maps=whole.depth_maps[:3],
        points=replace(
            whole.points, **{name: getattr(whole.points, name)[:0] for name in type(whole.points).__dataclass_fields__}
        ),
    )
    found = refine(initial, photos, priors_of(initial.cameras), OPTIONS)
    assert {verdict.status for verdict in found.verdicts} == {"network-only"}
    assert pose_errors(found.cameras.c2w, initial.cameras.c2w)[0] < 1e-4
    assert found.confidence == 0 and len(found.tracks) == 0
    for old, new in zip(initial.depth_maps, found.depth_maps, strict=True):
        assert old is not None and new is not None
        np.testing.assert_allclose(new.depth, old.depth, rtol=1e-5)


def test_masked_pixels_have_no_features(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    mask = np.full((240, 320), 255, np.uint8)
    mask[:, :160] = 0
    (tmp_path / "masks").mkdir()
    for name in scene.reconstruction.image_names:
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    photos = load_photos([tmp_path / "photos"], masks=tmp_path / "masks").photos
    masked = extract_features(photos, max_features=500, threads=1)
    plain = extract_features(load_photos([tmp_path / "photos"]).photos, max_features=500, threads=1)
    for with_mask, without in zip(masked, plain, strict=True):
        assert (with_mask.xy[:, 0] >= 160).all() and len(with_mask.xy) > 20
        assert (without.xy[:, 0] < 160).sum() > 20
        assert with_mask.descriptors is not None
        assert len(np.asarray(with_mask.descriptors.data)) == len(with_mask.xy)


def test_features_sit_where_the_picture_has_them(tmp_path):
    """Dots at known places; pixel centres at 0.5, also where the photo is portrait."""
    places = np.array([[40.5, 60.5], [90.5, 150.5], [60.5, 200.5]])
    y, x = np.mgrid[0:240, 0:128] + 0.5
    picture = np.full((240, 128), 90.0)
    for px, py in places:
        picture += 140 * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / 9)
    for index in range(2):
        Image.fromarray((picture + index).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{index}.png")
    features = extract_features(load_photos([tmp_path]).photos, max_features=100, threads=1)[0]
    distance = np.linalg.norm(features.xy[:, None] - places[None], axis=2).min(0)
    assert distance.max() < 0.1


def test_pairs_of_few_are_all_and_of_many_the_near_ones(scene):
    assert choose_pairs(scene.reconstruction) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    count = 60
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, 0, 3] = np.arange(count) % 30  # the walk is done twice
    one = scene.reconstruction.cameras
    cameras = Cameras(c2w, np.tile(one.K[:1], (count, 1, 1)), np.tile(one.size_hw[:1], (count, 1)))
    exact = scene.reconstruction
    many = replace(exact, image_names=tuple(map(str, range(count))), cameras=cameras, depth_maps=(), verdicts=())
    pairs = set(choose_pairs(many))
    assert len(pairs) < count * (count - 1) / 2 and all(a < b for a, b in pairs)
    assert {(i, i + 1) for i in range(count - 1)} <= pairs
    assert {(i, i + 30) for i in range(30)} <= pairs
    assert (0, 29) not in pairs
