"""Matches as rays, for whatever lens is asked for."""

from dataclasses import replace

import numpy as np

from flarecli.refine.candidate import MatchGraph, pair_inliers

from .exact import exact


def test_rays_are_those_of_the_lens_that_is_asked_for():
    scene = exact(3, k1=-0.05)
    other = replace(scene.lenses, K=scene.lenses.K * np.array([1.2, 1.2, 1])[:, None], k1=np.array([0.02]))
    for lenses in (scene.lenses, other, scene.lenses):
        for pair in scene.graph.matches:
            for rays, photo, pixels in zip(scene.graph.rays(pair, lenses), pair, scene.graph.pixels(pair), strict=True):
                np.testing.assert_array_equal(rays, lenses.rays(photo, pixels))


def test_errors_and_their_threshold_are_in_the_same_pixels_whatever_the_sizes():
    """The same geometry and noise, one photo enlarged: the same matches agree."""
    scene = exact(2, noise_px=1.5, num_tracks=400)
    plain = sum(good.sum() for good in pair_inliers(scene.graph, scene.truth).values())
    for factor in (4.0, 8.0):
        first, second = scene.graph.features
        features = [replace(first, xy=first.xy), replace(second, xy=factor * second.xy)]
        K = np.concatenate([scene.lenses.K, scene.lenses.K * np.array([factor, factor, 1])[:, None]])
        size = np.concatenate([scene.lenses.size_hw, (factor * scene.lenses.size_hw).astype(int)])
        lenses = replace(scene.lenses, group=np.arange(2), K=K, size_hw=size, k1=np.zeros(2), sigma=np.zeros(2))
        graph = MatchGraph(features, scene.graph.matches)
        found = sum(good.sum() for good in pair_inliers(graph, replace(scene.truth, lenses=lenses)).values())
        assert 0.2 < plain / sum(map(len, graph.matches.values())) < 0.95
        assert abs(found - plain) <= 0.02 * plain
