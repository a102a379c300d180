"""The full-size novel-view network against recorded outputs of the published one; about half a CPU minute.

``shared/flare/parity.md`` describes the weights and the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from flarecli.model.config_flare import FlareConfig
from flarecli.model.flare_nvs import FlareNvs
from flarecli.model.flare_nvs_keys import FLARE_NVS_KEYS
from flarecli.model.gaussian_activation import flare_gaussians
from flarecli.runtime import available_memory
from tests.model.published import (
    SHARED,
    assert_checksum,
    assert_every_key_is_used_or_dropped,
    assert_parity,
    build_filled,
    flare_weights,
    published_rows,
)

KEYS = SHARED / "flare" / "nvs.keys.tsv"
NEEDED_BYTES = 8 * 2**30
SPARSE = (slice(None), slice(1, None, 8), slice(2, None, 8))

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not KEYS.exists(), reason="the reference material is not beside the checkout"),
]


def build() -> FlareNvs:
    return FlareNvs(FlareConfig(tap_blocks=(0, 1, 2)))


@pytest.fixture(scope="module")
def fixture() -> Iterator[dict[str, np.ndarray]]:
    with np.load(SHARED / "flare" / "nvs_parity.npz") as arrays:
        yield {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def network() -> FlareNvs:
    if available_memory(torch.device("cpu")) < NEEDED_BYTES:
        pytest.skip("needs 8 GB of free memory")
    return build_filled(build, flare_weights(KEYS), FLARE_NVS_KEYS)


def test_every_published_key_is_loaded_or_dropped_with_a_reason() -> None:
    with torch.device("meta"):
        expected = build().state_dict()
    assert_every_key_is_used_or_dropped(published_rows(KEYS), "influences_outputs", FLARE_NVS_KEYS, expected)
    assert sum(tensor.numel() for tensor in expected.values()) == 1_323_922_819


@pytest.mark.parametrize("case", ["", "portrait/"], ids=["landscape", "portrait"])
@pytest.mark.slow
def test_network_reproduces_the_published_outputs(network: FlareNvs, fixture: dict[str, np.ndarray], case: str) -> None:
    seen: dict[str, torch.Tensor] = {}
    handles = [
        network.appearance.register_forward_hook(lambda _, __, output: seen.update(tokens=output[0], detail=output[1])),
        network.gaussian_head.register_forward_hook(lambda _, inputs, __: seen.update(features=inputs[0])),
    ]
    rgb = (torch.from_numpy(fixture[f"{case}images"])[None] + 1) / 2
    portrait = torch.from_numpy(fixture[f"{case}true_shape"][:, 0] > fixture[f"{case}true_shape"][:, 1])
    lens = torch.from_numpy(fixture[f"{case}fxfycxcy_unorm"])
    K = torch.eye(3).repeat(1, 2, 1, 1)
    K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2] = lens.T
    with torch.inference_mode():
        output = network(rgb, portrait, K)
    for handle in handles:
        handle.remove()

    for index, pose in enumerate([*output.coarse_poses, *output.refined_poses]):
        assert_parity(pose.translation, fixture[f"{case}pose/T"][index], f"T of iteration {index}")
        assert_parity(pose.quats_wxyz, fixture[f"{case}pose/quaternion_R"][index], f"quaternion of iteration {index}")
    assert_checksum(seen["tokens"], fixture, f"{case}nvs/fine_tokens")
    assert_checksum(seen["detail"].movedim(2, -1), fixture, f"{case}nvs/feat_vgg_detail")
    assert_parity(output.points[0], fixture[f"{case}out/pts3d"], "points")
    assert_parity(output.confidence[0], fixture[f"{case}out/conf"], "confidence")

    raw = output.gaussians[0].movedim(1, -1)
    descriptors = seen["features"][:, :25].transpose(-1, -2) if portrait[0] else seen["features"][:, :25]
    parts = {
        "feature": raw[..., :75],
        "opacity": raw[..., 75:76],
        "scaling": raw[..., 76:79],
        "rotation": raw[..., 79:],
    }
    for name, ours in {**parts, "desc": descriptors.movedim(1, -1)}.items():
        stride = () if name == "opacity" else SPARSE
        assert_parity(ours[stride], fixture[f"{case}out/{name}"], name)
        assert_checksum(ours, fixture, f"{case}out/{name}_full")

    gaussians = flare_gaussians(output.gaussians[0])
    assert_parity(output.points[0][SPARSE], fixture[f"{case}gauss/mean"], "mean")
    assert_parity(gaussians.scales[SPARSE], fixture[f"{case}gauss/scale"], "scale")
    assert_parity(gaussians.opacities[SPARSE][..., None], fixture[f"{case}gauss/opacity"], "activated opacity")
    assert_parity(gaussians.quats_wxyz[SPARSE], fixture[f"{case}gauss/quat"], "quaternion")
    assert_parity(gaussians.sh[SPARSE], fixture[f"{case}gauss/sh"], "harmonics")


def test_activations_reproduce_the_published_values(fixture: dict[str, np.ndarray]) -> None:
    def raw(values: np.ndarray, first: int) -> torch.Tensor:
        """One pixel per row, all other channels zero."""
        maps = torch.zeros(83, 1, len(values))
        maps[first : first + values.shape[1], 0] = torch.from_numpy(values.T)
        return maps

    scales = flare_gaussians(raw(fixture["unit/gauss/scaling_in"][:, None], 76)).scales[0, :, 0]
    assert_parity(scales, fixture["unit/gauss/scale"], "scale")
    assert fixture["unit/gauss/scale"].min() == np.float32(5e-4)
    opacities = flare_gaussians(raw(fixture["unit/gauss/opacity_in"][:, None], 75)).opacities[0]
    assert_parity(opacities, fixture["unit/gauss/opacity"], "opacity")
    quats = flare_gaussians(raw(fixture["unit/gauss/rotation_in"], 79)).quats_wxyz[0]
    assert_parity(quats, fixture["unit/gauss/quat"], "quaternion")
