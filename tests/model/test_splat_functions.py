"""Recorded outputs of the small functions around NoPoSplat and SPFSplat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from flarecli.model.dpt import activate_points
from flarecli.model.gaussian_activation import sh_damping, splat_gaussians
from flarecli.model.layers import rotary
from flarecli.model.spf_pose import SpfPoseHead, focal_of_points, in_first_frame, poses_from_numbers
from tests.model.published import SHARED

FILES = {
    "noposplat": SHARED / "noposplat" / "noposplat_functions.npz",
    "spfsplat": SHARED / "spfsplat" / "spfsplat_functions.npz",
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not all(path.exists() for path in FILES.values()), reason="no reference material beside us"),
]


@pytest.fixture(scope="module")
def recorded() -> Iterator[dict[str, np.ndarray]]:
    arrays = {}
    for name, path in FILES.items():
        with np.load(path) as file:
            arrays |= {f"{name}/{key}": file[key] for key in file.files}
    yield arrays


@pytest.mark.parametrize("source", FILES)
def test_gaussians(recorded: dict[str, np.ndarray], source: str) -> None:
    raw = torch.from_numpy(recorded[f"{source}/adapter/in/raw"])
    logits = torch.zeros(len(raw), 1)
    maps = torch.cat([logits, raw], dim=1).T[:, None]
    gaussians = splat_gaussians(maps, real_part_first=False)
    expected = {name: recorded[f"{source}/adapter/out/{name}"] for name in ("scales", "rotations", "harmonics")}
    assert expected["scales"].max() == np.float32(0.3)  # the clamp is exercised
    np.testing.assert_allclose(gaussians.scales[0], expected["scales"], rtol=1e-5)
    np.testing.assert_allclose(gaussians.quats_wxyz[0].roll(-1, dims=-1), expected["rotations"], atol=1e-6)
    np.testing.assert_allclose(gaussians.sh[0].transpose(-1, -2), expected["harmonics"], rtol=1e-6)
    np.testing.assert_allclose(sh_damping(), recorded[f"{source}/adapter/sh_mask"])
    as_rendered = splat_gaussians(maps, real_part_first=True)
    np.testing.assert_allclose(as_rendered.quats_wxyz[0], expected["rotations"], atol=1e-6)


def test_opacities(recorded: dict[str, np.ndarray]) -> None:
    maps = torch.zeros(83, 1, 61)
    maps[0, 0] = torch.from_numpy(recorded["noposplat/opacity/in_logit"])
    ours = splat_gaussians(maps, real_part_first=True).opacities[0]
    np.testing.assert_allclose(ours, recorded["noposplat/opacity/out"], atol=2e-7)


def test_points(recorded: dict[str, np.ndarray]) -> None:
    ours = activate_points(torch.from_numpy(recorded["noposplat/point_exp/in"]))
    np.testing.assert_allclose(ours, recorded["noposplat/point_exp/out"], rtol=1e-5, atol=1e-9)


def test_rotary(recorded: dict[str, np.ndarray]) -> None:
    rope = rotary(torch.from_numpy(recorded["noposplat/rope/in_pos_yx"]), 64)
    ours = rope(torch.from_numpy(recorded["noposplat/rope/in_tokens"]))
    np.testing.assert_allclose(ours, recorded["noposplat/rope/out"], atol=1e-6)


def test_poses(recorded: dict[str, np.ndarray]) -> None:
    poses = poses_from_numbers(torch.from_numpy(recorded["spfsplat/process_pose/in9"]))
    np.testing.assert_allclose(poses.flatten(0, 1), recorded["spfsplat/process_pose/to4x4"], atol=1e-6)
    for contexts in (2, 3):
        unit, kept = (recorded[f"spfsplat/process_pose/{kind}/ctx{contexts}"] for kind in _POSE_KINDS)
        np.testing.assert_allclose(in_first_frame(poses, contexts - 1), unit, atol=1e-5)
        np.testing.assert_allclose(in_first_frame(poses), kept, atol=1e-5)


_POSE_KINDS = ("baseline1_relative", "relative_only")


def test_pose_head(recorded: dict[str, np.ndarray]) -> None:
    names = {"more_mlps": "mlp", "fc_t": "translation", "fc_rot": "rotation"}
    state = {}
    for key, values in recorded.items():
        name = key.removeprefix("spfsplat/posehead/sd/")
        if name != key and name not in ("max_scale", "min_scale"):
            first, _, rest = name.partition(".")
            state[f"{names[first]}.{rest}" if rest else name] = torch.from_numpy(values)
    head = SpfPoseHead(16, homogeneous=True)
    head.load_state_dict(state)
    both = [torch.from_numpy(recorded[f"spfsplat/posehead/in_{part}"]) for part in ("enc", "dec")]
    with torch.no_grad():
        ours = head(torch.cat(both, dim=-1).mean(dim=1))
    np.testing.assert_allclose(ours, recorded["spfsplat/posehead/out9"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["sq", "wide", "neg"])
def test_focal_length(recorded: dict[str, np.ndarray], case: str) -> None:
    points = torch.from_numpy(recorded[f"spfsplat/focal/{case}/in_pts"])[0]
    # The published program divides the first row of K by the height and the second by the width.
    expected = recorded[f"spfsplat/focal/{case}/out_K"][0]
    assert float(focal_of_points(points)) == pytest.approx(float(expected[0, 0]) * points.shape[1], rel=1e-5)
    assert float(focal_of_points(points)) == pytest.approx(float(expected[1, 1]) * points.shape[2], rel=1e-5)
