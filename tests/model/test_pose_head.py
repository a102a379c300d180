"""Camera encoding and its iterative regression."""

from __future__ import annotations

import math

import numpy as np
import torch

from flarecli.geometry.transforms import matrix_from_quats_wxyz
from flarecli.model.pose_head import PoseHead, decode_pose, harmonic_embedding, rotation_from_quats_wxyz
from tests.model.tiny import CONFIG


def test_rotations_agree_with_the_projects_own_for_any_length() -> None:
    quats = np.random.default_rng(0).normal(size=(20, 4)) * np.logspace(-2, 2, 20)[:, None]
    ours = rotation_from_quats_wxyz(torch.from_numpy(quats))
    np.testing.assert_allclose(ours, matrix_from_quats_wxyz(quats), atol=1e-12)


def test_decoding_fills_a_rigid_matrix_and_bounds_the_focal() -> None:
    encoding = torch.tensor([[[1.0, 2.0, 3.0, 2.0, 0.0, 0.0, 2.0, -50.0, 50.0]]])
    pose = decode_pose(encoding)
    expected = torch.tensor([[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(pose.c2w[0, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pose.focal[0, 0], torch.tensor([0.1, 30.0]))


def test_harmonics_are_ordered_by_number_then_octave() -> None:
    embedded = harmonic_embedding(torch.tensor([0.3, -0.7]), 3)
    sines = [math.sin(x * 2**k) for x in (0.3, -0.7) for k in range(3)]
    cosines = [math.cos(x * 2**k) for x in (0.3, -0.7) for k in range(3)]
    torch.testing.assert_close(embedded, torch.tensor([*sines, *cosines, 0.3, -0.7]), atol=1e-6, rtol=0)


def test_harmonics_lose_the_quarter_turn_at_high_octaves() -> None:
    embedded = harmonic_embedding(torch.tensor([0.75]), 42)
    assert embedded[41] == embedded[42 + 41]


def test_head_returns_every_iteration_and_computes_in_float32() -> None:
    torch.manual_seed(0)
    head, tokens = PoseHead(CONFIG).eval(), torch.randn(2, 3, 32)
    plain = head(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(tokens)
    assert len(plain) == CONFIG.pose_iterations
    for first, second in zip(plain, mixed, strict=True):
        assert second.translation.dtype == torch.float32
        torch.testing.assert_close(first.c2w, second.c2w)


def test_source_views_are_exchangeable_and_the_reference_is_not() -> None:
    torch.manual_seed(0)
    head, tokens = PoseHead(CONFIG).eval(), torch.randn(1, 3, 32)
    torch.nn.init.normal_(head.reference_token)
    with torch.no_grad():
        first = head(tokens)[0].translation
        sources = head(tokens[:, [0, 2, 1]])[0].translation
        reference = head(tokens[:, [1, 0, 2]])[0].translation
    torch.testing.assert_close(first[:, [0, 2, 1]], sources, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first[:, [1, 0, 2]], reference, atol=1e-3)
