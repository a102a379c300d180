"""NoPoSplat and SPFSplat at full size against recorded outputs of the published ones; about a CPU minute in all.

``shared/noposplat/parity.md`` describes weights and arrays. All networks share most weights, which are made once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.dpt import DptGaussianHead, DptHead
from flarecli.model.gaussian_activation import splat_gaussians
from flarecli.model.keys import KeyRule
from flarecli.model.noposplat import NoPoSplat, SplatOutput
from flarecli.model.spfsplat import SpfSplat
from flarecli.model.splat_keys import (
    NOPOSPLAT_KEYS,
    SPFSPLAT_KEYS,
    SPFSPLAT_NO_INTRINSICS_KEYS,
    SPFSPLAT_V2_KEYS,
)
from flarecli.runtime import available_memory
from tests.model.published import (
    SHARED,
    assert_every_key_is_used_or_dropped,
    build_filled,
    published_rows,
    shape_of,
)

NEEDED_BYTES = 5 * 2**30

KEYS = {
    "noposplat": SHARED / "noposplat" / "noposplat.keys.tsv",
    "spfsplat": SHARED / "spfsplat" / "spfsplat.keys.tsv",
    "spfsplatv2": SHARED / "spfsplat" / "spfsplatv2.keys.tsv",
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[KeyRule, ...]]] = {
    "noposplat": (lambda: NoPoSplat(SplatConfig()), "noposplat", NOPOSPLAT_KEYS),
    "spfsplat": (lambda: SpfSplat(SplatConfig(pose="pooled")), "spfsplat", SPFSPLAT_KEYS),
    "spfsplat-nointrin": (
        lambda: SpfSplat(SplatConfig(pose="pooled", intrinsics="none")),
        "spfsplat",
        SPFSPLAT_NO_INTRINSICS_KEYS,
    ),
    "spfsplatv2": (lambda: SpfSplat(SplatConfig(pose="token", intrinsics="decoder")), "spfsplatv2", SPFSPLAT_V2_KEYS),
}

# Relative L2 error per array, as shared/noposplat/parity.md recommends: five to ten times the noise between threads,
# below the smallest effect of a mistake.
LIMITS = {
    "points": 2e-5,
    "parameters": 2e-5,
    "means": 5e-5,
    "covariances": 2e-5,
    "harmonics": 2e-5,
    "opacities": 3e-6,
    "scales": 2e-5,
    "rotations": 2e-5,
    "tokens": 1e-5,
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not all(path.exists() for path in KEYS.values()), reason="no reference material beside us"),
]


def rule_weight(row: dict[str, str]) -> Tensor:
    """The value that the rule gives a published parameter; the table says which form it takes."""
    bounds = {"max_scale": 4.0, "min_scale": 0.01, "max_inv_scale": 0.25, "min_inv_scale": 100.0}
    bounds["h_beta"] = float(np.log(2.0) / 0.75)
    if row["parity_fill"] == "const":
        return torch.full(shape_of(row), bounds[row["key"].rsplit(".", 1)[-1]])
    source = row["key"] if row["parity_fill"] != "alias" else row["alias_of"]
    random = np.random.RandomState(zlib.crc32(source.encode()) & 0x7FFFFFFF)
    values = random.standard_normal(shape_of(row)).astype(np.float32)
    if row["parity_fill"] in ("token0.02", "vec0.02"):
        values *= np.float32(0.02)
    elif row["parity_fill"] == "norm_weight":
        values = np.float32(1) + np.float32(0.02) * values
    else:
        values /= np.float32(np.sqrt(int(np.prod(values.shape[1:]))))
    return torch.from_numpy(values)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Filled as networks ask for them; parameters of the same name are the same in all of them."""
    return {}


@pytest.fixture
def network_of(weights: dict[str, Tensor]) -> Callable[[str], nn.Module]:
    if available_memory(torch.device("cpu")) < NEEDED_BYTES:
        pytest.skip("needs 5 GB of free memory")

    def make(row: dict[str, str]) -> Tensor:
        name = f"{row['key']} {row['shape']}"
        if name not in weights:
            weights[name] = rule_weight(row)
        return weights[name]

    def build(name: str) -> nn.Module:
        constructor, table, key_rules = NETWORKS[name]
        rows = published_rows(KEYS[table])
        return build_filled(constructor, {row["key"]: lambda row=row: make(row) for row in rows}, key_rules)

    return build


@pytest.fixture(scope="module")
def fixtures() -> Iterator[dict[str, np.ndarray]]:
    """All recorded arrays under "network/case/...", the two networks of SPFSplat's first file under one name."""
    arrays = {}
    for folder, name in (("noposplat", "noposplat"), ("spfsplat", "spfsplat"), ("spfsplat", "spfsplatv2")):
        with np.load(SHARED / folder / f"{name}_parity.npz") as file:
            arrays |= {f"{name}/{key}": file[key] for key in file.files}
    yield arrays


def smooth_images(count: int, height: int, width: int) -> np.ndarray:
    """Images of the recorded runs, uint8 (count, 3, H, W): two corner-aligned bilinear noise grids."""
    random = np.random.RandomState(0)
    total = np.zeros((count, 3, height, width))
    for weight, grid in ((0.7, 9), (0.3, 33)):
        noise = torch.from_numpy(random.rand(count, 3, grid, grid))
        size = (height, width)
        total += weight * nn.functional.interpolate(noise, size, mode="bilinear", align_corners=True).numpy()
    return np.clip(np.rint(total * 255), 0, 255).astype(np.uint8)


def inputs_of(fixtures: dict[str, np.ndarray], case: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    K = torch.from_numpy(fixtures[f"{case}/in/intrinsics"])[None]
    images = smooth_images(K.shape[1], *size)
    assert_summary(images.astype(np.float64), fixtures[f"{case}/in/images_u8__chk"], 1e-12, "images")
    return torch.from_numpy(images).float().div(255)[None], K


def relative_l2(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    theirs = theirs.astype(np.float64)
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs))


def assert_summary(ours: np.ndarray, summary: np.ndarray, limit: float, what: str) -> None:
    """Length and a weighted sum of the whole array."""
    flat = np.asarray(ours, np.float64).ravel()
    wave = np.cos(0.37 * np.arange(flat.size) + 0.11)
    assert abs(np.linalg.norm(flat) / summary[2] - 1) <= limit, what
    assert abs((flat * wave).sum() - summary[3]) <= limit * summary[2], what


def covariances(scales: np.ndarray, quats_xyzw: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    axes = Rotation.from_quat(quats_xyzw).as_matrix() * scales[:, None]
    return axes @ axes.transpose(0, 2, 1)


def check_splats(output: SplatOutput, fixtures: dict[str, np.ndarray], case: str, stride: int) -> None:
    """Gaussians of all views; the recorded quaternions and covariances read the four numbers as x y z w."""
    gaussians = splat_gaussians(output.gaussians[0], real_part_first=False)
    scales = gaussians.scales.reshape(-1, 3).double().numpy()
    quats_xyzw = gaussians.quats_wxyz.reshape(-1, 4).roll(-1, dims=-1).double().numpy()
    ours = {
        "means": output.points[0].reshape(-1, 3).numpy(),
        "harmonics": gaussians.sh.reshape(-1, 25, 3).transpose(1, 2).numpy(),
        "opacities": gaussians.opacities.reshape(-1).numpy(),
        "scales": scales,
        "rotations": quats_xyzw,
        "covariances": covariances(scales, quats_xyzw),
    }
    for name, values in ours.items():
        theirs = fixtures[f"{case}/out/{name}"]
        error = relative_l2(values[::stride], theirs)
        assert error <= LIMITS[name], f"{case} {name}: {error:.1e}"
        assert_summary(values, fixtures[f"{case}/out/{name}__chk"], LIMITS[name], f"{case} {name}")
    # The farthest points dominate the norm of all means; the logarithm of the distance and the direction see every one.
    ours_far, far = (np.linalg.norm(each, axis=1) for each in (ours["means"][::stride], fixtures[f"{case}/out/means"]))
    assert relative_l2(np.log1p(ours_far), np.log1p(far)) <= LIMITS["points"]
    directions = ours["means"][::stride] / ours_far[:, None], fixtures[f"{case}/out/means"] / far[:, None]
    assert relative_l2(*directions) <= LIMITS["means"]


class Recorder:
    """Outputs of chosen modules while a network runs, under their published names and in the order of the calls."""

    def __init__(self, network: nn.Module) -> None:
        self.calls: dict[str, list[Tensor]] = {}
        self._handles = []
        for name, module in network.named_modules():
            if isinstance(module, DptHead | DptGaussianHead) or name in (
                "trunk.encoder_norm",
                "trunk.decoder_embed",
                "trunk.decoder_norm",
                "trunk.reference_blocks.5",
                "trunk.source_blocks.5",
            ):
                self._handles.append(module.register_forward_hook(self._keep(name)))

    def _keep(self, name: str):
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self.calls.setdefault(name, []).append(
                output.flatten(0, -3) if output.ndim > 3 and "trunk" in name else output
            )

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def check_middle(recorder: Recorder, fixtures: dict[str, np.ndarray], case: str) -> None:
    """Tokens and raw outputs of the heads; the latter were recorded view by view."""
    for ours, theirs, what in (
        ("trunk.encoder_norm", "backbone.enc_norm#0", "tokens"),
        ("trunk.decoder_embed", "backbone.decoder_embed#0", "tokens"),
        ("trunk.reference_blocks.5", "backbone.dec_blocks.5#0", "tokens"),
        ("trunk.source_blocks.5", "backbone.dec_blocks2.5#0", "tokens"),
        ("heads.point_heads.0", "downstream_head1.dpt#0", "points"),
        ("heads.point_heads.1", "downstream_head2.dpt#0", "points"),
        ("heads.gaussian_heads.0", "gaussian_param_head.dpt#0", "parameters"),
        ("heads.gaussian_heads.1", "gaussian_param_head2.dpt#0", "parameters"),
    ):
        values = recorder.calls[ours][0]
        if "heads" in ours:
            values = values[:1]
        shape = tuple(fixtures[f"{case}/mid/{theirs}/shape"])
        if values.numel() != np.prod(shape):
            assert theirs == "backbone.decoder_embed#0" and shape[0] == 1  # called once per view there
            values = values[:1]
        flat = values.flatten().numpy()
        picked = np.floor(np.linspace(0, flat.size - 1, 64)).astype(np.int64)
        error = relative_l2(flat[picked], fixtures[f"{case}/mid/{theirs}/smp"])
        assert error <= LIMITS[what], f"{case} {theirs}: {error:.1e}"
        assert_summary(flat, fixtures[f"{case}/mid/{theirs}/chk"], LIMITS[what], f"{case} {theirs}")


@pytest.mark.parametrize(
    ("case", "size", "stride"),
    [("v2_80x112", (80, 112), 7), ("v2_128x192", (128, 192), 61), ("v3_256", (256, 256), 61)],
)
@pytest.mark.slow
def test_noposplat_reproduces_the_published_outputs(
    network_of: Callable[[str], nn.Module],
    fixtures: dict[str, np.ndarray],
    case: str,
    size: tuple[int, int],
    stride: int,
) -> None:
    network, case = network_of("noposplat"), f"noposplat/{case}"
    recorder = Recorder(network)
    with torch.inference_mode():
        output = network(*inputs_of(fixtures, case, size))
    recorder.close()
    check_middle(recorder, fixtures, case)
    check_splats(output, fixtures, case, stride)


@pytest.mark.parametrize(
    ("name", "case", "size", "targets", "stride"),
    [
        ("spfsplat", "spfsplat/c2t2_80", 80, 2, 7),
        ("spfsplat-nointrin", "spfsplat/ni2_256", 256, 0, 61),
        ("spfsplatv2", "spfsplatv2/c2t2_80", 80, 2, 7),
        ("spfsplatv2", "spfsplatv2/c3_256", 256, 0, 61),
    ],
)
@pytest.mark.slow
def test_spfsplat_reproduces_the_published_outputs(
    network_of: Callable[[str], nn.Module],
    fixtures: dict[str, np.ndarray],
    name: str,
    case: str,
    size: int,
    targets: int,
    stride: int,
) -> None:
    network = network_of(name)
    rgb, K = inputs_of(fixtures, case, (size, size))
    with torch.inference_mode():
        output = network(rgb, None if name == "spfsplat-nointrin" else K, num_targets=targets)
    check_splats(output.splats, fixtures, case, stride)
    np.testing.assert_allclose(output.c2w[0], fixtures[f"{case}/out/extrinsics_c"], atol=1e-5, rtol=0)
    if targets:
        every = fixtures[f"{case}/out/extrinsics_cwt"]
        np.testing.assert_allclose(output.c2w_with_targets[0], every, atol=1e-5, rtol=0)
    if name == "spfsplat-nointrin":
        # The points of random weights are no image of a camera: the focal length is nearly zero and ill-conditioned.
        focal = float(fixtures[f"{case}/out/intrinsics_c"][0, 0, 0])
        assert float(output.focal_px[0]) / size == pytest.approx(focal, abs=1e-5)
    else:
        assert output.focal_px is None


@pytest.mark.parametrize("name", NETWORKS)
def test_every_published_key_is_loaded_or_dropped_with_a_reason(name: str) -> None:
    constructor, table, key_rules = NETWORKS[name]
    with torch.device("meta"):
        expected = constructor().state_dict()
    rows = published_rows(KEYS[table])
    for row in rows:
        # One of the two names of a tensor counts as unused in the table; we load either.
        if row["parity_fill"] == "alias":
            row["used_at_inference"] = "yes"
        if name == "spfsplat-nointrin" and "intrinsic_encoder" in row["key"]:
            row["used_at_inference"] = "no"
    assert_every_key_is_used_or_dropped(rows, "used_at_inference", key_rules, expected)
    bare = [{**row, "key": row["key"].removeprefix("encoder.")} for row in rows]
    assert_every_key_is_used_or_dropped(bare, "used_at_inference", key_rules, expected)
    if name == "noposplat":
        assert sum(tensor.numel() for tensor in expected.values()) == 607_274_924
