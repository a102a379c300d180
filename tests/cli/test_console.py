"""Progress bars on a terminal and JSON values."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flarecli.cli.console import StageBars, Talk, _bars, plain, print_json
from flarecli.cli.options import TalkOptions, split_commas


@pytest.fixture
def terminal(monkeypatch):
    """A talk whose stderr is a terminal."""
    talk = Talk(TalkOptions())
    monkeypatch.setattr(talk, "console", Console(file=io.StringIO(), force_terminal=True, width=100))
    return talk


def test_a_terminal_gets_bars_and_messages_above_them(terminal):
    with terminal, terminal.progress() as on_progress:
        assert isinstance(on_progress, StageBars)
        on_progress("network", 1, 4)
        terminal.say("the licence")
    text = terminal.console.file.getvalue()
    assert "network" in text
    assert "1/4" in text
    assert "the licence" in text


def test_quiet_has_no_bars(terminal):
    terminal.options = TalkOptions(quiet=True)
    with terminal, terminal.progress() as on_progress:
        on_progress("network", 1, 4)
    assert terminal.console.file.getvalue() == ""


def test_a_new_stage_completes_those_before_and_old_ones_leave():
    bars = _bars(Console(file=io.StringIO()))
    on_progress = StageBars(bars)
    on_progress("a", 1, 4)
    on_progress("b", 0, 0)
    on_progress("c", 2, 5)
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("a", 4, 4),
        ("b", 1, 1),
        ("c", 2, 5),
    ]
    for index in range(100):
        on_progress(f"scene {index}", 1, 2)
    assert len(bars.tasks) == 12
    assert bars.tasks[-1].description == "scene 99"


def test_values_become_plain_json(capsys):
    value = {
        "path": Path("a/b"),
        "array": np.arange(3),
        "number": np.float32(0.5),
        "nan": float("nan"),
        "tuple": (1, None, True),
        3: np.array([[np.inf, 1.0]]),
    }
    expected = {
        "path": "a/b",
        "array": [0, 1, 2],
        "number": 0.5,
        "nan": None,
        "tuple": [1, None, True],
        "3": [[None, 1.0]],
    }
    assert plain(value) == expected
    print_json(value)
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["a,b", "c"], ("a", "b", "c")), (["a", "a, b ,"], ("a", "b")), ([], ()), ([","], ())],
)
def test_lists_may_be_repeated_or_joined_by_commas(values, expected):
    assert split_commas(values) == expected
