"""Errors in the user's words."""

import pytest
import typer

from flarecli.cli.failures import Failure, failure_of
from flarecli.errors import InputError


@pytest.mark.parametrize(
    ("error", "name", "lines", "code"),
    [
        (InputError("a.jpg is broken", "remove it"), "InputError", ["error: a.jpg is broken", "hint: remove it"], 3),
        (KeyboardInterrupt(), "Interrupted", ["interrupted"], 130),
        (typer.BadParameter("no"), "UsageError", ["error: Invalid value: no", "hint: see flare --help"], 2),
        (
            ValueError("shapes\n(3,)"),
            "InternalError",
            ["error: internal error: ValueError: shapes (3,)", "hint: run again with --debug and report the traceback"],
            1,
        ),
    ],
)
def test_every_kind_of_error(error, name, lines, code):
    failure = failure_of(error)
    assert (failure.name, failure.lines(), failure.exit_code) == (name, lines, code)


def test_without_a_hint_there_is_one_line():
    assert Failure("E", "gone", "", 3).lines() == ["error: gone"]
