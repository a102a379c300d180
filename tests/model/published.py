"""Recorded outputs of the published networks: the rules of their weights, and the comparison with ours."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from flarecli.model.keys import KeyRule, our_name, rule_for

SHARED = Path(__file__).parents[2].parent / "shared"
TOLERANCE = 1e-4

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def published_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table of published keys."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def shape_of(row: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(side) for side in row["shape"].split("x"))


def flare_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value that the rule gives a published parameter."""
    seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
    values = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if "token" in key:
        values *= np.float32(0.02)
    elif len(shape) >= 2:
        values /= np.float32(np.sqrt(int(np.prod(shape[1:]))))
        if key.endswith("pose_proj.weight"):
            values[:, :756] *= (2.0 ** -(np.arange(756) % 42)).astype(np.float32)
        if key.endswith("dpt.head.4.weight"):
            values *= np.float32(0.0625)
    else:
        values = np.float32(0.02) * values
        if key.endswith(".weight"):
            values += np.float32(1)
    return torch.from_numpy(values)


def flare_weights(table: Path) -> dict[str, Callable[[], Tensor]]:
    """What the rule gives every published parameter; of two names of one tensor, the one that names its value."""
    return {
        row["key"]: lambda row=row: flare_weight(row["key"], shape_of(row))
        for row in published_rows(table)
        if not re.search(r"\.layer\d_rn\.", row["key"])
    }


def build_filled(
    build: Callable[[], NetworkT], weights: Mapping[str, Callable[[], Tensor]], key_rules: Sequence[KeyRule]
) -> NetworkT:
    """A network on the meta device, given weights under their published names; there is only one copy of them."""
    with torch.device("meta"):
        network = build()
    state = {}
    for key, make in weights.items():
        name = our_name(key, key_rules)
        if name is not None and name not in state:
            state[name] = make()
    network.load_state_dict(state, strict=True, assign=True)
    return cast("NetworkT", network.eval())


def assert_every_key_is_used_or_dropped(
    rows: list[dict[str, str]], used: str, key_rules: Sequence[KeyRule], expected: Mapping[str, Tensor]
) -> None:
    """Every published key is loaded under one of our names, or dropped with a reason because inference ignores it."""
    loaded = {}
    for row in rows:
        found = rule_for(row["key"], key_rules)
        assert found is not None, f"no rule for {row['key']}"
        rule, ours = found
        assert (ours is not None) == (row[used] == "yes"), row["key"]
        if ours is None:
            assert rule.reason
        else:
            loaded[ours] = shape_of(row)
    assert loaded == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert [name for name in expected if rule_for(name, key_rules) is not None] == []


def relative_error(ours: Tensor | np.ndarray, theirs: np.ndarray) -> float:
    ours = np.asarray(ours, dtype=np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_parity(ours: Tensor | np.ndarray, theirs: np.ndarray, what: str) -> None:
    error = relative_error(ours, theirs)
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


def assert_checksum(ours: Tensor, fixture: dict[str, np.ndarray], prefix: str) -> None:
    """Compare with 128 recorded values and the moments of a large array."""
    assert list(ours.shape) == fixture[f"{prefix}/shape"].tolist()
    flat = ours.flatten().double().numpy()
    picked = np.rint(np.linspace(0, len(flat) - 1, 64)).astype(int)
    scale = np.abs(flat).max()
    for values, name in ((flat[:64], "first64"), (flat[picked], "spaced64")):
        error = np.abs(values - fixture[f"{prefix}/{name}"]).max() / scale
        assert error <= TOLERANCE, f"{prefix}/{name}: relative error {error:.2e}"
    moments = np.array([flat.mean(), flat.std(ddof=1)])
    assert np.abs(moments - fixture[f"{prefix}/meanstd"]).max() <= TOLERANCE * scale
