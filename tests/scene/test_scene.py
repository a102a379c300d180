"""The value types refuse what is not theirs, and nobody can change them."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from flarecli.geometry.transforms import Sim3, rigid
from flarecli.scene.arrays import frozen
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import DepthMap, PointCloud, Reconstruction, Tracks
from flarecli.scene.views import Views
from tests.synthetic import make_gaussians

K = np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]])


def cameras(count: int = 3) -> Cameras:
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, 0, 3] = np.arange(count)
    return Cameras(c2w, np.tile(K, (count, 1, 1)), np.tile([48, 64], (count, 1)))


def cloud(views: tuple[int, ...] = (0, 1)) -> PointCloud:
    n = len(views)
    return PointCloud(np.zeros((n, 3)), np.zeros((n, 3)), np.ones(n), np.array(views), np.zeros((n, 2)))


def tracks(point_index=(0, 0, 1, 1), view_index=(0, 1, 1, 2), points: int = 2) -> Tracks:
    n = len(point_index)
    return Tracks(
        np.zeros((points, 3)), np.zeros((points, 3)), np.zeros(points), point_index, view_index, np.ones((n, 2))
    )


def test_arrays_are_copied_checked_and_locked():
    source = np.arange(6.0).reshape(2, 3)
    out = frozen(source, np.float32, (None, 3), "xyz")
    source[:] = 9
    assert out[1, 2] == 5 and out.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        out[0, 0] = 1
    with pytest.raises(ValueError, match="xyz must have shape any x 4, not 2 x 3"):
        frozen(source, np.float64, (None, 4), "xyz")
    with pytest.raises(ValueError, match="scalar"):
        frozen(3.0, np.float64, (1,), "xyz")
    with pytest.raises(ValueError, match="not finite"):
        frozen([np.nan], np.float64, (1,), "xyz")
    assert np.isnan(frozen([np.nan], np.float64, (1,), "xyz", finite=False)[0])


def test_cameras_are_read_only_and_complete():
    built = cameras()
    assert built.k1 is not None and built.k1.tolist() == [0, 0, 0]
    for values in (built.c2w, built.K, built.size_hw, built.k1):
        assert not values.flags.writeable
    with pytest.raises(FrozenInstanceError):
        built.k1 = None  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(built.w2c[:, 0, 3], [0, -1, -2])
    np.testing.assert_array_equal(built.centers[:, 0], [0, 1, 2])
    assert built.focal_px.tolist() == [100, 100, 100]
    assert built.subset([2, 0]).centers[:, 0].tolist() == [2, 0]
    moved = built.transformed(Sim3(2.0, np.eye(3), np.array([0, 0, 5.0])))
    assert moved.centers.tolist() == [[0, 0, 5], [2, 0, 5], [4, 0, 5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c2w": 1.01 * rigid(np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3)))}, "last row"),
        ({"c2w": rigid(np.tile(1.01 * np.eye(3), (3, 1, 1)), np.zeros((3, 3)))}, "rotation"),
        ({"c2w": rigid(np.tile(np.diag([1.0, 1, -1]), (3, 1, 1)), np.zeros((3, 3)))}, "rotation"),
        ({"c2w": np.full((3, 4, 4), np.inf)}, "not finite"),
        ({"K": np.tile(np.diag([1.0, -1, 1]), (3, 1, 1))}, "focal"),
        ({"K": np.tile(K, (2, 1, 1))}, "K must have shape"),
        ({"size_hw": np.zeros((3, 2))}, "sizes"),
        ({"k1": np.zeros(2)}, "k1"),
    ],
)
def test_cameras_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(cameras(), **change)


def test_no_cameras_are_cameras_too():
    assert len(Cameras(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros((0, 2)))) == 0


def test_tracks_have_two_photos_or_more_and_each_photo_once():
    assert len(tracks()) == 2 and not tracks().xyz.flags.writeable
    assert len(tracks((), (), 0)) == 0
    with pytest.raises(ValueError, match="at least two"):
        tracks((0, 0, 1), (0, 1, 1))
    with pytest.raises(ValueError, match="at least two"):
        tracks((0, 0), (0, 1), points=2)
    with pytest.raises(ValueError, match="at least two"):
        tracks((), (), points=1)
    with pytest.raises(ValueError, match="only once"):
        tracks((0, 0, 1, 1), (0, 1, 1, 1))
    with pytest.raises(ValueError, match="not there"):
        tracks((0, 0, 2, 2), (0, 1, 0, 1))
    with pytest.raises(ValueError, match="not there"):
        tracks((0, 0, -1, -1), (0, 1, 0, 1))


def test_a_reconstruction_is_consistent():
    names = ("a.jpg", "b.jpg", "c.jpg")
    good = Reconstruction(names, cameras(), cloud(), tracks())
    assert len(good) == 3
    depth = DepthMap(np.ones((2, 3)), np.ones((2, 3)), K)
    for change, message in [
        ({"image_names": names[:2]}, "2 image names but 3 cameras"),
        ({"image_names": ("a", "b", "a")}, "unique"),
        ({"image_names": ("a", "b", "../c")}, "leads out"),
        ({"image_names": ("a", "b/../../c", "d")}, "leads out"),
        ({"image_names": ("/a", "b", "c")}, "leads out"),
        ({"image_names": ("", "b", "c")}, "leads out"),
        ({"depth_maps": (depth,)}, "depth maps"),
        ({"points": cloud((0, 3))}, "not there"),
        ({"points": cloud((-1,))}, "not there"),
        ({"tracks": tracks((0, 0, 1, 1), (0, 1, 1, 3))}, "not there"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(good, **change)


def test_depth_maps_and_clouds_fit_together():
    with pytest.raises(ValueError, match="confidence"):
        DepthMap(np.ones((2, 3)), np.ones((3, 2)), K)
    with pytest.raises(ValueError, match="rgb"):
        PointCloud(np.zeros((2, 3)), np.zeros((1, 3)), np.ones(2), np.zeros(2), np.zeros((2, 2)))
    assert not DepthMap(np.ones((2, 3)), np.ones((2, 3)), K).depth.flags.writeable
    assert not cloud().rgb.flags.writeable


def test_gaussians_hold_activated_values():
    good = make_gaussians(5, sh_degree=2)
    assert len(good) == 5 and good.sh_degree == 2 and not good.means.flags.writeable
    for change, message in [
        ({"scales": -good.scales}, "activated"),
        ({"opacities": good.opacities + 1}, "activated"),
        ({"quats_wxyz": good.quats_wxyz * 2}, "unit"),
        ({"sh": np.zeros((5, 3, 3))}, "coefficients"),
        ({"means": good.means[:4]}, "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(good, **change)
    empty = Gaussians(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 1, 3)))
    assert len(empty) == 0 and empty.sh_degree == 0


def test_joined_gaussians_keep_their_order_and_their_photos_if_all_have_some():
    first, second = make_gaussians(5, 1, seed=0), make_gaussians(3, 1, seed=1)
    both = Gaussians.joined([first, second])
    np.testing.assert_array_equal(both.sh, np.concatenate([first.sh, second.sh]))
    np.testing.assert_array_equal(both.select(np.arange(8) >= 5).means, second.means)
    assert both.view_index is None
    seen = replace(first, view_index=np.full(5, 4))
    assert Gaussians.joined([seen, replace(second, view_index=np.full(3, 2))]).view_index.tolist() == [4] * 5 + [2] * 3
    assert Gaussians.joined([seen, second]).view_index is None


def test_priors_know_what_is_known():
    priors = Priors(np.array([0, 1]), np.full((2, 2), 48), np.stack([K, K]), np.array([0.0, 0.3]), np.zeros(2))
    assert priors.known.tolist() == [True, False] and not priors.K.flags.writeable
    with pytest.raises(ValueError, match="c2w"):
        replace(priors, c2w=np.eye(4)[None])
    with pytest.raises(ValueError, match="sigma"):
        replace(priors, sigma=np.zeros(3))


def test_views_are_landscape_and_complete():
    rgb, portrait, c2w = torch.rand(3, 3, 32, 48), torch.tensor([True, False, False]), torch.eye(4).repeat(3, 1, 1)
    views = Views(rgb, portrait, c2w)
    chosen = views.select([2, 0])
    assert len(chosen) == 2 and chosen.portrait.tolist() == [False, True] and chosen.c2w is not None
    assert torch.equal(chosen.rgb[0], rgb[2]) and chosen.to(torch.device("cpu")).rgb.shape == (2, 3, 32, 48)
    assert Views(rgb, portrait).select([1]).c2w is None
    for broken in (
        lambda: Views(rgb.transpose(2, 3), portrait),
        lambda: Views(rgb[:, :1], portrait),
        lambda: Views(rgb[0], portrait),
        lambda: Views(rgb, portrait[:2]),
        lambda: Views(rgb, portrait, c2w[:2]),
        lambda: Views(rgb, portrait, c2w[:, :3]),
    ):
        with pytest.raises(ValueError):
            broken()
