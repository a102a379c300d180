"""The full-size network against recorded outputs of the published one, with weights made by a fixed rule.

``shared/flare/parity.md`` describes the rule and the arrays. Every weight goes through the key map under its published
name, so this is a test of the map as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flarecli.model.config_flare import FlareConfig
from flarecli.model.dpt import activate
from flarecli.model.flare import Flare, FlareOutput
from flarecli.model.flare_keys import FLARE_KEYS
from flarecli.model.layers import rotary
from flarecli.model.pose_head import decode_pose, harmonic_embedding
from flarecli.runtime import available_memory
from tests.model.published import SHARED, assert_checksum, assert_parity, build_filled, flare_weights

FLARE_SHARED = SHARED / "flare"
NEEDED_BYTES = 8 * 2**30

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FLARE_SHARED.is_dir(), reason="the reference material is not beside the checkout"),
]


@pytest.fixture(scope="module")
def fixture() -> Iterator[dict[str, np.ndarray]]:
    with np.load(FLARE_SHARED / "geometry_pose_parity.npz") as arrays:
        yield {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def network() -> Flare:
    """The published configuration, filled by the rule; built on the meta device so that there is one copy."""
    if available_memory(torch.device("cpu")) < NEEDED_BYTES:
        pytest.skip("needs 8 GB of free memory")
    started = time.monotonic()
    network = build_filled(
        lambda: Flare(FlareConfig()), flare_weights(FLARE_SHARED / "geometry_pose.keys.tsv"), FLARE_KEYS
    )
    print(f"filled the network in {time.monotonic() - started:.0f} s")  # noqa: T201
    return network


def run_case(network: Flare, fixture: dict[str, np.ndarray], case: str) -> FlareOutput:
    rgb = (torch.from_numpy(fixture[f"{case}images"])[None] + 1) / 2
    true_shape = fixture[f"{case}true_shape"]
    portrait = torch.from_numpy(true_shape[:, 0] > true_shape[:, 1])
    known = fixture.get(f"{case}camera_pose")
    c2w = None if known is None else torch.from_numpy(known)[None]
    with torch.inference_mode():
        return network(rgb, portrait, c2w)


@pytest.mark.parametrize("case", ["", "mixed/", "wpose/", "pair/"], ids=["plain", "mixed", "known-poses", "pair"])
@pytest.mark.slow
def test_network_reproduces_the_published_outputs(
    network: Flare, fixture: dict[str, np.ndarray], case: str, request: pytest.FixtureRequest
) -> None:
    recorder = Recorder(network)
    output = run_case(network, fixture, case)
    recorder.close()
    poses = [*output.coarse_poses, *output.refined_poses]
    assert len(poses) == 8
    for index, pose in enumerate(poses):
        for field, name in (
            ("translation", "T"),
            ("quats_wxyz", "quaternion_R"),
            ("rotation", "R"),
            ("focal", "focal_length"),
        ):
            assert_parity(getattr(pose, field), fixture[f"{case}pose/{name}"][index], f"{name} of iteration {index}")
    stride = (slice(None), slice(None)) if case == "" else (slice(1, None, 4), slice(2, None, 4))
    for field, name in (
        ("points_local", "local/pts3d"),
        ("confidence_local", "local/conf"),
        ("points_global", "global/pts3d"),
        ("confidence_global", "global/conf"),
    ):
        assert_parity(getattr(output, field)[0][:, *stride], fixture[case + name], name)
        assert_checksum(getattr(output, field), fixture, f"{case}{name}_full")
    if f"{case}enc/tokens/shape" in fixture:
        check_tokens(recorder, fixture, case)


class Recorder:
    """Keeps what the stages of a network return while it runs."""

    def __init__(self, network: Flare) -> None:
        self.outputs: dict[str, Any] = {}
        self._handles = [
            getattr(network, name).register_forward_hook(self._keep(name))
            for name in ("encoder", "pose_stage", "local_stage", "global_stage")
        ]

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            self.outputs[name] = output

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def check_tokens(recorder: Recorder, fixture: dict[str, np.ndarray], case: str) -> None:
    encoded = recorder.outputs["encoder"]
    np.testing.assert_array_equal(encoded.grid.positions[None], fixture[f"{case}enc/pos"])
    np.testing.assert_array_equal(encoded.coarse_grid.positions[None], fixture[f"{case}enc/coarse_pos"])
    assert_checksum(encoded.tokens, fixture, f"{case}enc/tokens")
    assert_checksum(encoded.coarse, fixture, f"{case}enc/coarse_tokens")
    for block, tap in zip((4, 10, 16), encoded.taps, strict=True):
        assert_checksum(tap, fixture, f"{case}enc/block_input_{block}")
    cameras = recorder.outputs["pose_stage"]
    assert_checksum(cameras[:, :1], fixture, f"{case}stage1/ref_token_12")
    assert_checksum(cameras[0, 1:, None], fixture, f"{case}stage1/src_token_12")
    local, local_cameras = recorder.outputs["local_stage"]
    assert_checksum(local_cameras[:, :1], fixture, f"{case}stage2/ref_token")
    for layer in range(12):
        assert_checksum(local[layer], fixture, f"{case}stage2/out_{layer + 1}")
        assert_checksum(recorder.outputs["global_stage"][layer], fixture, f"{case}stage3/out_{layer + 1}")


@pytest.mark.slow
def test_attention_blocks_and_pose_head_reproduce_the_published_outputs(
    network: Flare, fixture: dict[str, np.ndarray]
) -> None:
    tokens = torch.from_numpy(fixture["unit/attnblock12/in"])
    with torch.inference_mode():
        assert_parity(
            network.get_submodule("pose_stage.exchanges.0.block")(tokens), fixture["unit/attnblock12/out"], "12 heads"
        )
        assert_parity(network.coarse_pose_head.trunk[0](tokens), fixture["unit/attnblock8/out"], "8 heads")
        poses = network.coarse_pose_head(torch.from_numpy(fixture["unit/posehead/tokens"]))
    for index, pose in enumerate(poses):
        assert_parity(pose.translation, fixture["unit/posehead/T"][index], "T")
        assert_parity(pose.quats_wxyz, fixture["unit/posehead/quaternion_R"][index], "quaternion")
        assert_parity(pose.focal, fixture["unit/posehead/focal_length"][index], "focal")


def test_rotary_reproduces_the_published_values(fixture: dict[str, np.ndarray]) -> None:
    rope = rotary(torch.from_numpy(fixture["unit/rope/pos"]), 64, 100.0)
    assert_parity(rope(torch.from_numpy(fixture["unit/rope/tokens"])), fixture["unit/rope/out"], "rope")


def test_harmonic_embedding_reproduces_the_published_values(fixture: dict[str, np.ndarray]) -> None:
    ours = harmonic_embedding(torch.from_numpy(fixture["unit/harmonic/in"]), 42)
    np.testing.assert_allclose(ours, fixture["unit/harmonic/out"], atol=1e-5, rtol=0)


def test_pose_decoding_reproduces_the_published_values(fixture: dict[str, np.ndarray]) -> None:
    pose = decode_pose(torch.from_numpy(fixture["unit/posenc/in"]))
    assert_parity(pose.translation, fixture["unit/posenc/T"], "T")
    assert_parity(pose.quats_wxyz, fixture["unit/posenc/quaternion_R"], "quaternion")
    assert_parity(pose.rotation, fixture["unit/posenc/R"], "R")
    assert_parity(pose.focal, fixture["unit/posenc/focal_length"], "focal")


def test_activations_reproduce_the_published_values(fixture: dict[str, np.ndarray]) -> None:
    raw = torch.from_numpy(fixture["unit/post/in"])
    assert raw.shape[1] == 6
    points, confidence = activate(raw[:, :4])
    assert_parity(points, fixture["unit/post/pts3d"], "points")
    assert_parity(confidence, fixture["unit/post/conf"], "confidence")
