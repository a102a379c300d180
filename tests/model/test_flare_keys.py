"""Every published parameter is either loaded under one of our names or dropped with a reason."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from flarecli.model.config import FlareConfig
from flarecli.model.flare import Flare
from flarecli.model.flare_keys import FLARE_KEYS
from flarecli.model.keys import rule_for

KEYS = Path(__file__).parents[2].parent / "shared" / "flare" / "geometry_pose.keys.tsv"


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Flare(FlareConfig()).state_dict()


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    if not KEYS.exists():
        pytest.skip("the reference material is not beside the checkout")
    with KEYS.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.shared
def test_every_published_key_is_loaded_or_dropped_with_a_reason(
    published: list[dict[str, str]], expected: dict[str, torch.Tensor]
) -> None:
    loaded = {}
    for row in published:
        found = rule_for(row["key"], FLARE_KEYS)
        assert found is not None, f"no rule for {row['key']}"
        rule, ours = found
        assert (ours is not None) == (row["influences_outputs"] == "yes"), row["key"]
        if ours is None:
            assert rule.reason
        else:
            loaded[ours] = tuple(int(side) for side in row["shape"].split("x"))
    assert loaded == {name: tuple(tensor.shape) for name, tensor in expected.items()}


@pytest.mark.shared
def test_two_published_names_share_a_parameter_only_where_they_share_storage(published: list[dict[str, str]]) -> None:
    seen: dict[str, str] = {}
    for row in published:
        found = rule_for(row["key"], FLARE_KEYS)
        assert found is not None
        ours = found[1]
        if ours in seen and ours is not None:
            assert "same storage" in row["note"]
        seen[ours or row["key"]] = row["key"]


def test_our_own_names_are_left_alone(expected: dict[str, torch.Tensor]) -> None:
    assert [name for name in expected if rule_for(name, FLARE_KEYS) is not None] == []


def test_only_used_parameters_are_instantiated(expected: dict[str, torch.Tensor]) -> None:
    assert sum(tensor.numel() for tensor in expected.values()) == 1_215_507_866
