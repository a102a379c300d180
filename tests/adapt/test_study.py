"""The study of an exact scene with mixed sizes and orientations says what is true."""

import dataclasses

import numpy as np
import pytest
import torch

from flarecli.adapt.study import _Straightener, study_of
from flarecli.geometry.projection import intrinsics
from flarecli.images.loading import load_photos
from flarecli.images.preparing import prepare
from flarecli.inference.predict import Predicted
from flarecli.scene.reconstruction import DepthMap, Tracks
from flarecli.train.targets import find_matches, make_targets
from tests.adapt.conftest import CANVAS, SIZES
from tests.synthetic import _render


def disagreement(study) -> tuple[float, float]:
    """Median difference of colours at points that two views share, and the share of points that are shared."""
    truth = make_targets(study.batch(range(len(study.names))))
    height, width = study.size_hw
    pixels = torch.arange(0, height * width, 7)[None, None]
    wrong, shared = [], []
    for a in range(len(study.names)):
        for b in range(len(study.names)):
            if a == b:
                continue
            found = find_matches(truth, torch.tensor([[a]]), torch.tensor([[b]]), pixels, 1)
            at = found.location[0, 0].long()
            seen = found.visible[0, 0]
            here = study.rgb[a].flatten(1)[:, pixels[0, 0]][:, seen]
            there = study.rgb[b][:, at[seen, 1], at[seen, 0]]
            wrong.append((here - there).abs().mean(0))
            shared.append(seen.float().mean())
    return float(torch.cat(wrong).median()), float(torch.stack(shared).mean())


def test_colours_agree_where_measured_depth_says_that_views_see_the_same_point(exact):
    study = exact.study
    assert study.size_hw == CANVAS and study.portrait.tolist() == [h > w for h, w in SIZES]
    assert study.verified == (True,) * len(SIZES)
    wrong, shared = disagreement(study)
    assert shared > 0.4
    assert wrong < 0.05
    turned = dataclasses.replace(study, c2w=study.c2w.roll(1, 0))
    assert disagreement(turned)[0] > 2 * wrong  # so that the test can fail


def test_the_unit_is_the_median_depth_and_focal_lengths_are_shares_of_the_long_side(exact):
    study = exact.study
    assert float(study.depth[study.depth > 0].median()) == pytest.approx(1, abs=1e-5)
    wanted = exact.reconstruction.cameras
    spread = np.linalg.norm(wanted.centers[1] - wanted.centers[0])
    found = float((study.c2w[1, :3, 3] - study.c2w[0, :3, 3]).norm())
    depth = np.median(np.concatenate([each.depth.ravel() for each in exact.reconstruction.depth_maps]))
    assert found == pytest.approx(spread / depth, rel=0.1)
    # cropping to the canvas keeps 4:3 photos whole
    assert study.focal.tolist() == pytest.approx([1.1] * len(SIZES), rel=0.02)


def test_only_measured_depth_and_sparse_points_count(exact):
    photos = load_photos([exact.folder]).photos
    predicted = Predicted((), prepare(photos, CANVAS))
    # However sure the network is of its depth, nothing measured it.
    guessed = tuple(
        DepthMap(each.depth, np.full(each.depth.shape, 9.0), each.K) for each in exact.reconstruction.depth_maps
    )
    sparse = study_of(dataclasses.replace(exact.reconstruction, depth_maps=guessed), predicted)
    share = float((sparse.depth > 0).float().mean())
    assert 0 < share < 0.3
    # the rims of the maps were not measured
    assert 0.9 < float((exact.study.depth > 0).float().mean()) < 1
    nothing = dataclasses.replace(exact.reconstruction, depth_maps=guessed, tracks=Tracks.empty())
    assert study_of(nothing, predicted).verified == (False,) * len(SIZES)


def test_another_size_keeps_the_geometry(exact):
    small = exact.study.resized(64, 8)
    assert small.size_hw == (48, 64)
    assert small.use.shape == small.depth.shape == (len(SIZES), 48, 64)
    wrong, shared = disagreement(small)
    assert wrong < 0.08 and shared > 0.4


def test_lens_distortion_is_taken_out(exact):
    cameras = dataclasses.replace(exact.reconstruction.cameras, k1=np.full(len(SIZES), -0.2))
    photos = load_photos([exact.folder]).photos
    prepared = prepare(photos, CANVAS)
    bent = prepared.views.rgb.clone()
    for view in range(len(SIZES)):
        picture = torch.from_numpy(_render(cameras, view, 0)).permute(2, 0, 1)[None].float() / 255
        turned = bool(prepared.views.portrait[view])
        size = CANVAS[::-1] if turned else CANVAS
        small = torch.nn.functional.interpolate(picture, size, mode="area")[0]
        bent[view] = small.transpose(1, 2) if turned else small
    views = dataclasses.replace(prepared.views, rgb=bent)
    crooked = Predicted((), dataclasses.replace(prepared, views=views))
    straight = study_of(dataclasses.replace(exact.reconstruction, cameras=cameras), crooked)
    ignored = study_of(exact.reconstruction, crooked)
    assert disagreement(straight)[0] < 0.85 * disagreement(ignored)[0]


@pytest.mark.parametrize("view", range(len(SIZES)))
def test_cameras_whose_principal_point_is_off_are_straightened(exact, view):
    """Colours and masks move with the rays; depth is looked up through the same camera."""
    prepared = prepare(load_photos([exact.folder]).photos, CANVAS)
    portrait = bool(prepared.views.portrait[view])
    height, width = CANVAS[::-1] if portrait else CANVAS
    K = intrinsics(60.0, (height, width))
    K[0, 2] += 3
    lens = _Straightener.of(prepared, view, K, 0.0)
    assert lens.K[0, 2] == width / 2 and lens.K[0, 0] == 60
    ramp = torch.arange(width).float().repeat(3, height, 1) / width
    stored = ramp.transpose(1, 2) if portrait else ramp
    found = lens.colours(stored)
    upright = found.transpose(1, 2) if portrait else found
    np.testing.assert_allclose(upright[0, :, :-3], ramp[0, :, 3:], atol=1e-6)
    mask = lens.mask(torch.ones(CANVAS))
    upright = mask.T if portrait else mask
    assert not upright[:, -3:].any() and upright[:, :-3].all()
