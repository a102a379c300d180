"""Every published parameter is either loaded under one of our names or dropped with a reason."""

from __future__ import annotations

import pytest
import torch

from flarecli.model.config_flare import FlareConfig
from flarecli.model.flare import Flare
from flarecli.model.flare_keys import FLARE_KEYS
from flarecli.model.keys import rule_for
from tests.model.published import SHARED, assert_every_key_is_used_or_dropped, published_rows

KEYS = SHARED / "flare" / "geometry_pose.keys.tsv"


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Flare(FlareConfig()).state_dict()


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    if not KEYS.exists():
        pytest.skip("the reference material is not beside the checkout")
    return published_rows(KEYS)


@pytest.mark.shared
def test_every_published_key_is_loaded_or_dropped_with_a_reason(
    published: list[dict[str, str]], expected: dict[str, torch.Tensor]
) -> None:
    assert_every_key_is_used_or_dropped(published, "influences_outputs", FLARE_KEYS, expected)


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


def test_only_used_parameters_are_instantiated(expected: dict[str, torch.Tensor]) -> None:
    assert sum(tensor.numel() for tensor in expected.values()) == 1_215_507_866
