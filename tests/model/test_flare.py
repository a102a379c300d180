"""The composed network at toy size: contracts, symmetries and what must not change the answer."""

from __future__ import annotations

import pytest
import torch

from flarecli.model.flare import Flare, FlareOutput, pose_condition
from flarecli.scene.views import Views
from tests.model.tiny import CONFIG

LANDSCAPE = torch.zeros(3, dtype=torch.bool)


@pytest.fixture
def network() -> Flare:
    torch.manual_seed(1)
    return Flare(CONFIG).eval()


@pytest.fixture
def rgb() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(1, 3, 3, 64, 128)


def run(network: Flare, rgb: torch.Tensor, portrait: torch.Tensor = LANDSCAPE, **options: object) -> FlareOutput:
    with torch.no_grad():
        return network(rgb, portrait, **options)


def random_c2w(num_views: int) -> torch.Tensor:
    rotation = torch.linalg.qr(torch.randn(1, num_views, 3, 3, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w = torch.eye(4, dtype=torch.float64).repeat(1, num_views, 1, 1)
    c2w[..., :3, :3], c2w[..., :3, 3] = rotation, torch.randn(1, num_views, 3)
    return c2w


def assert_same(first: torch.Tensor | None, second: torch.Tensor | None, tolerance: float = 1e-5) -> None:
    assert first is not None and second is not None
    torch.testing.assert_close(first, second, atol=tolerance, rtol=1e-4)


def differs(first: torch.Tensor, second: torch.Tensor) -> bool:
    return float((first - second).abs().max()) > 1e-4


def test_shapes_and_ranges(network: Flare, rgb: torch.Tensor) -> None:
    output = run(network, rgb)
    assert len(output.coarse_poses) == len(output.refined_poses) == CONFIG.pose_iterations
    assert output.points_global.shape == (1, 3, 64, 128, 3)
    assert output.confidence_global.shape == (1, 3, 64, 128)
    assert output.points_local is not None and output.points_local.shape == (1, 3, 64, 128, 3)
    assert output.confidence_local is not None and bool((output.confidence_local > 1).all())
    assert output.refined_poses[-1].c2w.shape == (1, 3, 4, 4)


def test_source_views_are_exchangeable_and_the_reference_is_not(network: Flare, rgb: torch.Tensor) -> None:
    output, swapped = run(network, rgb), run(network, rgb[:, [0, 2, 1]])
    assert_same(output.points_global[:, [0, 2, 1]], swapped.points_global)
    assert_same(output.coarse_poses[0].translation[:, [0, 2, 1]], swapped.coarse_poses[0].translation)
    assert differs(output.points_global[:, [1, 0, 2]], run(network, rgb[:, [1, 0, 2]]).points_global)


def test_scenes_of_a_batch_do_not_see_each_other(network: Flare, rgb: torch.Tensor) -> None:
    portrait = torch.tensor([False, True, False])
    other = torch.rand(1, 3, 3, 64, 128)
    both, alone = run(network, torch.cat([other, rgb]), portrait), run(network, rgb, portrait)
    assert_same(both.points_global[1:], alone.points_global)
    assert_same(both.coarse_poses[0].translation[1:], alone.coarse_poses[0].translation)


def test_orientation_flags_change_the_answer(network: Flare, rgb: torch.Tensor) -> None:
    mixed = run(network, rgb, torch.tensor([False, True, False]))
    assert differs(mixed.points_global, run(network, rgb).points_global)


def test_skipping_the_local_head_changes_nothing_else(network: Flare, rgb: torch.Tensor) -> None:
    calls = []
    network.local_head.register_forward_hook(lambda *_: calls.append(1))
    short = run(network, rgb, local=False)
    assert not calls
    assert short.points_local is None and short.confidence_local is None
    assert_same(short.points_global, run(network, rgb).points_global)
    assert calls


def test_known_poses_guide_the_geometry_in_any_common_world(network: Flare, rgb: torch.Tensor) -> None:
    torch.manual_seed(3)
    c2w = random_c2w(3)
    output = run(network, rgb, c2w=c2w)
    moved = random_c2w(1) @ c2w
    scaled = c2w.clone()
    scaled[..., :3, 3] *= 7.5
    for same_poses in (moved, scaled):
        assert_same(output.points_global, run(network, rgb, c2w=same_poses).points_global)
    free = run(network, rgb)
    assert differs(output.points_global, free.points_global)
    assert_same(output.coarse_poses[-1].c2w, free.coarse_poses[-1].c2w)


def test_condition_has_translations_of_mean_length_one() -> None:
    quats, translation = torch.randn(2, 4, 4), torch.randn(2, 4, 3)
    condition = pose_condition(quats, translation)
    assert torch.equal(condition[..., :4], quats)
    torch.testing.assert_close(condition[..., 4:].norm(dim=-1).mean(1), torch.ones(2))


def test_every_parameter_influences_the_outputs(network: Flare, rgb: torch.Tensor) -> None:
    output = network(rgb, LANDSCAPE)
    parts = [output.points_local, output.confidence_local, output.points_global, output.confidence_global]
    parts += [pose.translation for pose in (*output.coarse_poses, *output.refined_poses)]
    torch.manual_seed(4)
    torch.stack([(part * torch.randn_like(part)).sum() for part in parts]).sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_mixed_precision_keeps_poses_and_points_in_float32(network: Flare, rgb: torch.Tensor) -> None:
    plain = run(network, rgb)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(network, rgb)
    assert mixed.points_global.dtype == mixed.refined_poses[-1].translation.dtype == torch.float32
    error = (mixed.points_global - plain.points_global).abs().max() / plain.points_global.abs().max()
    assert 0 < float(error) < 0.2


def test_dense_heads_work_in_float32_under_autocast(network: Flare, rgb: torch.Tensor) -> None:
    raw: list[torch.dtype] = []
    for head in (network.local_head, network.global_head):
        head.register_forward_hook(lambda _module, _inputs, output: raw.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(network, rgb)
    assert set(raw) == {torch.float32}


def test_predict_returns_the_last_iterations(network: Flare, rgb: torch.Tensor) -> None:
    portrait = torch.tensor([False, True, False])
    prediction, output = network.predict(Views(rgb[0], portrait)), run(network, rgb, portrait)
    assert_same(prediction.coarse_c2w, output.coarse_poses[-1].c2w[0])
    assert_same(prediction.refined_c2w, output.refined_poses[-1].c2w[0])
    assert_same(prediction.points_global, output.points_global[0])
    assert prediction.focal is None
    assert not prediction.points_local.requires_grad


def test_predict_uses_known_poses(network: Flare, rgb: torch.Tensor) -> None:
    torch.manual_seed(3)
    c2w = random_c2w(3)
    prediction = network.predict(Views(rgb[0], LANDSCAPE, c2w[0].float()))
    assert_same(prediction.points_global, run(network, rgb, c2w=c2w).points_global[0])


@pytest.mark.parametrize("shape", [(1, 1, 3, 64, 128), (1, 2, 3, 64, 100), (1, 2, 3, 128, 64)])
def test_views_that_do_not_fit_are_refused(network: Flare, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two views|multiples of 64"):
        network(torch.rand(shape), torch.zeros(shape[1], dtype=torch.bool))
