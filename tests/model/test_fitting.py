"""Names of a file become those of a network; what a file may have otherwise is completed or left out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from flarecli.errors import WeightsError
from flarecli.model.fitting import fit_state, rename_state
from flarecli.model.keys import OWN_KEYS, KeyMap, KeyRule

PATH = Path("a.ckpt")
RULES = (KeyRule(r"(?:encoder\.)?theirs\.(\w+)", r"ours.\1"),)


def test_with_a_prefix_the_rest_of_the_file_is_not_read() -> None:
    state = {"encoder.theirs.a": torch.ones(1), "losses.0.scale": torch.ones(1), "theirs.b": torch.ones(1)}
    assert rename_state(state, KeyMap(RULES, prefix="encoder."), PATH).keys() == {"ours.a"}
    assert rename_state(state, KeyMap(RULES), PATH).keys() == {"ours.a", "losses.0.scale", "ours.b"}


def test_a_file_without_the_prefix_is_read_whole() -> None:
    assert rename_state({"theirs.a": torch.ones(1)}, KeyMap(RULES, prefix="encoder."), PATH).keys() == {"ours.a"}


def test_what_is_left_out_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    expected = {"a": torch.zeros(2)}
    state = {"a": torch.ones(2).half(), "b": torch.ones(1), "c": torch.ones(1)}
    with pytest.raises(WeightsError, match="2 unknown: b, c"):
        fit_state(dict(state), expected, PATH, OWN_KEYS)
    assert caplog.records == []
    fit_state(state, expected, PATH, KeyMap(extra_names=True))
    assert state.keys() == {"a"} and state["a"].dtype == torch.float32
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "a.ckpt: 2 weights left out that this network lacks: b, c"


def test_a_part_is_copied_only_where_all_of_it_is_absent() -> None:
    expected = {
        "other.a": torch.zeros(2),
        "other.b": torch.zeros(2),
        "first.a": torch.zeros(2),
        "first.b": torch.zeros(2),
    }
    lenient = KeyMap(copies=(("other.", "first."),))
    state = {"first.a": torch.full((2,), 1.0), "first.b": torch.full((2,), 2.0)}
    fit_state(state, expected, PATH, lenient)
    assert state["other.a"].tolist() == [1, 1] and state["other.b"].tolist() == [2, 2]
    assert state["other.a"].data_ptr() != state["first.a"].data_ptr()
    del state["other.b"]
    with pytest.raises(WeightsError, match=r"1 missing: other\.b"):
        fit_state(state, expected, PATH, lenient)


def test_only_rows_are_filled_up_and_only_where_that_is_allowed() -> None:
    expected = {"a": torch.zeros(3, 2)}
    state = {"a": torch.ones(1, 2)}
    with pytest.raises(WeightsError, match=r"a \(1, 2\) instead of \(3, 2\)"):
        fit_state(dict(state), expected, PATH, OWN_KEYS)
    lenient = KeyMap(padded=("a",))
    fit_state(state, expected, PATH, lenient)
    assert state["a"].tolist() == [[1, 1], [0, 0], [0, 0]]
    for shape in [(4, 2), (3, 1), (0, 2), (2,), ()]:
        with pytest.raises(WeightsError, match="instead of"):
            fit_state({"a": torch.ones(shape)}, expected, PATH, lenient)
