import dataclasses

import numpy as np
import pytest

from flarecli.errors import InputError
from flarecli.export.gaussian_files import write_gaussians
from flarecli.export.ply import load_gaussians_ply
from flarecli.export.splats import gaussians_from_points
from flarecli.geometry.transforms import matrix_from_quats_wxyz
from flarecli.scene.gaussians import SH_C0
from flarecli.scene.reconstruction import PointCloud
from tests.synthetic import WALL_NORMAL, make_gaussians


def test_discs_lie_in_the_surface_and_have_the_size_of_their_pixels(synthetic):
    reconstruction = synthetic.reconstruction
    points = reconstruction.points
    gaussians = gaussians_from_points(reconstruction)
    assert len(gaussians) == len(points) and gaussians.sh_degree == 0
    np.testing.assert_array_equal(gaussians.means, points.xyz)
    np.testing.assert_allclose(0.5 + SH_C0 * gaussians.sh[:, 0], points.rgb / 255, atol=1e-5)
    axes = matrix_from_quats_wxyz(gaussians.quats_wxyz)
    wall = (points.confidence > 2) & (np.linalg.norm(points.xyz - [0.1, -0.05, 4], axis=1) > 1.2)
    assert np.percentile(axes[wall, :, 2] @ WALL_NORMAL, 5) > 0.999
    assert (gaussians.scales[:, 2] < gaussians.scales[:, 1]).all()
    # Camera 0 is the world: depth is z, and a map of half the photo's size has half its focal length.
    first = points.view_index == 0
    footprint = points.xyz[first, 2] / (reconstruction.cameras.focal_px[0] / 2)
    np.testing.assert_allclose(gaussians.scales[first, 1], 0.6 * footprint, rtol=1e-3)
    assert (gaussians.scales[:, 0] >= gaussians.scales[:, 1] * 0.999).all()


def test_fewer_points_get_larger_discs(synthetic):
    reconstruction, points = synthetic.reconstruction, synthetic.reconstruction.points
    names = [field.name for field in dataclasses.fields(points)]
    sparse = PointCloud(**{name: getattr(points, name)[::4] for name in names})
    dense, few = (
        gaussians_from_points(reconstruction),
        gaussians_from_points(dataclasses.replace(reconstruction, points=sparse)),
    )
    np.testing.assert_allclose(few.scales[:, 1], 2 * dense.scales[::4, 1], rtol=1e-3)


def test_opacity_grows_with_confidence(synthetic):
    opacity = gaussians_from_points(synthetic.reconstruction).opacities
    low = synthetic.reconstruction.points.confidence < 2
    np.testing.assert_allclose(opacity[low], 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(opacity[~low], 0.8, rtol=1e-5)


def test_without_depth_maps(synthetic):
    gaussians = gaussians_from_points(dataclasses.replace(synthetic.reconstruction, depth_maps=()))
    assert np.isfinite(gaussians.scales).all()


def test_predicted_gaussians_are_written_as_they_are(synthetic, tmp_path):
    given = make_gaussians(10, 3)
    write_gaussians(dataclasses.replace(synthetic.reconstruction, gaussians=given), tmp_path)
    loaded = load_gaussians_ply(tmp_path / "gaussians.ply").gaussians
    np.testing.assert_allclose(loaded.sh, given.sh, atol=1e-6)
    write_gaussians(synthetic.reconstruction, tmp_path)
    initial = load_gaussians_ply(tmp_path / "gaussians.ply")
    assert len(initial.gaussians) == len(synthetic.reconstruction.points) and not initial.looks_activated


def test_no_points(synthetic):
    none = PointCloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    with pytest.raises(InputError, match="no dense points"):
        gaussians_from_points(dataclasses.replace(synthetic.reconstruction, points=none))
