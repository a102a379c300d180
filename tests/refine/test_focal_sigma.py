"""The stated uncertainty of the focal length is the one that noise brings about."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flarecli.refine.bundle import MIN_OBSERVATIONS, Adjusted, BundleOptions, adjust
from flarecli.refine.database import write_database
from flarecli.refine.focal_sigma import MATCH_ERROR_PX, focal_sigmas

from .exact import Exact, exact

OPTIONS = BundleOptions(refine_focal=True, refine_distortion=False, fixed_poses=False, threads=1)
NOISE_PX = 0.3


def adjusted(scene: Exact, folder: Path, options: BundleOptions = OPTIONS) -> Adjusted:
    folder.mkdir(exist_ok=True)
    write_database(folder / "features.db", scene.graph.features, scene.lenses, trust_focal=True)
    found = adjust(scene.graph, scene.truth, folder / "features.db", folder, options)
    assert found is not None
    return found


def test_noise_moves_the_focal_length_as_far_as_stated(tmp_path):
    off = []
    for seed in range(12):
        scene = exact(4, sigma=0.3, num_tracks=150, noise_px=NOISE_PX, seed=seed)
        found = adjusted(scene, tmp_path / str(seed))
        error = np.log(found.candidate.lenses.K[0, 0, 0] / scene.lenses.K[0, 0, 0])
        off.append(error / (NOISE_PX / MATCH_ERROR_PX * focal_sigmas(found)[0]))
    assert 0.5 < np.sqrt(np.mean(np.square(off))) < 2


def test_photos_from_one_direction_determine_less(tmp_path):
    wide = focal_sigmas(adjusted(exact(4, sigma=0.3, arc_deg=60.0), tmp_path / "wide"))
    narrow = focal_sigmas(adjusted(exact(4, sigma=0.3, arc_deg=8.0), tmp_path / "narrow"))
    assert 0 < wide[0] < 0.04 < narrow[0] <= 1


def test_a_free_lens_distortion_leaves_less_certain(tmp_path):
    scene = exact(4, sigma=0.3)
    held = focal_sigmas(adjusted(scene, tmp_path / "held"))
    free = focal_sigmas(adjusted(scene, tmp_path / "free", replace(OPTIONS, refine_distortion=True)))
    assert free[0] > 1.05 * held[0]


@pytest.mark.parametrize(("sigma", "options"), [(0.0, OPTIONS), (0.3, replace(OPTIONS, refine_focal=False))])
def test_lenses_that_stay_keep_what_was_known(tmp_path, sigma, options):
    assert focal_sigmas(adjusted(exact(4, sigma=sigma), tmp_path / "held", options)) == sigma


def test_a_photo_that_sees_too_little_to_be_adjusted_changes_nothing(tmp_path):
    scene = exact(4, sigma=0.3)
    matches = {pair: rows for pair, rows in scene.graph.matches.items() if 3 not in pair}
    without = focal_sigmas(adjusted(replace(scene, graph=replace(scene.graph, matches=matches)), tmp_path / "without"))
    few = {**matches, (0, 3): scene.graph.matches[0, 3][: MIN_OBSERVATIONS - 1]}
    found = adjusted(replace(scene, graph=replace(scene.graph, matches=few)), tmp_path / "few")
    assert not found.model.image(4).has_pose and 0 < found.observations[0]
    assert focal_sigmas(found) == pytest.approx(without, rel=1e-6)
