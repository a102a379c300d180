"""docs/cli.md says what the program does."""

import re
from pathlib import Path

import typer

from flarecli import errors
from flarecli.cli.app import app
from flarecli.errors import FlareError
from flarecli.evaluate.metrics import pose_metrics
from flarecli.summary import SUMMARY_COLUMNS
from tests.evaluate.test_metrics import cameras

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_every_exit_code_is_documented():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    raised = {
        each.exit_code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, FlareError)
    }
    assert documented == raised | {0, 1, 2, 130}


def test_what_counts_as_registered_without_refinement_is_said_in_the_help_and_here():
    """SceneJob.exit_code counts what was not dropped; tests/test_pipeline.py holds it to that."""
    for command in ("reconstruct", "batch"):
        parameters = typer.main.get_command(app).commands[command].params
        text = next(each.help for each in parameters if "--min-registered" in each.opts)
        assert "--refine none" in text and "not dropped" in text
    row = re.search(r"^\| 6 \| .*$", TEXT, re.MULTILINE)[0]
    assert "--refine none" in row and "not dropped" in row


def test_every_error_class_of_the_json_object_is_documented():
    # PartialResult is a result with code 6 and FlareError only the root.
    names = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, FlareError) and name not in {"FlareError", "PartialResult"}
    }
    for name in names | {"UsageError", "Interrupted", "InternalError"}:
        assert f"`{name}`" in TEXT


def test_every_metric_and_summary_column_is_documented():
    for name in pose_metrics(cameras(4), cameras(4)):
        assert f"`{name}`" in TEXT or f"`{name.split('@')[0]}@T`" in TEXT, name
    for column in SUMMARY_COLUMNS:
        assert f"`{column}`" in TEXT, column
