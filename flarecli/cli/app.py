"""The `flare` command: its sub-commands, and how every error becomes one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Annotated

import typer

from flarecli import __version__
from flarecli.cli import (
    batch,
    doctor,
    evaluate,
    export,
    formats,
    inspection,
    optimize,
    reconstruct,
    render,
    train,
    weights,
)
from flarecli.cli.console import abandon_stdout, keep_stdout_for_json, print_json
from flarecli.cli.failures import EXIT_DEFECT, EXIT_INTERRUPTED, failure_of

app = typer.Typer(
    name="flare",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("reconstruct", epilog=reconstruct.EPILOG)(reconstruct.reconstruct)
app.command("batch", epilog=batch.EPILOG)(batch.batch)
app.command("export")(export.export)
app.command("optimize", epilog=optimize.EPILOG)(optimize.optimize)
app.command("render", epilog=render.EPILOG)(render.render)
app.command("inspect")(inspection.inspect)
app.command("eval")(evaluate.evaluate)
app.add_typer(weights.app, name="weights")
app.command("doctor")(doctor.doctor)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("formats")(formats.formats)


def version_line() -> str:
    """Versions of flarecli, torch and the CUDA that torch was built for, without importing torch."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return f"flarecli {__version__} (torch is not installed)"
    build = torch.partition("+")[2]
    # A wheel without a local version is the registry's own build: CUDA on Linux, none elsewhere.
    cuda = (
        f"CUDA {build[2:-1]}.{build[-1]}"
        if build.startswith("cu")
        else "no CUDA"
        if build == "cpu"
        else "default build"
    )
    return f"flarecli {__version__} (torch {torch}, {cuda}, Python {sys.version.split()[0]})"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_line())
        raise typer.Exit


@app.callback(epilog=reconstruct.EPILOG)
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and leave.")
    ] = False,
) -> None:
    """Photos in; COLMAP cameras, points, Gaussians and a mesh out."""


def report(error: BaseException, *, as_json: bool) -> int:
    """Tell the user about an error, in one or two lines or as one JSON object, and return the exit code.

    Args:
        error: what ended the command.
        as_json: print ``{"error", "message", "hint", "exit_code"}`` on stdout instead of lines on stderr.
    """
    failure = failure_of(error)
    if as_json:
        values = {"error": failure.name, "message": failure.message, "hint": failure.hint}
        print_json({**values, "exit_code": failure.exit_code})
    else:
        for line in failure.lines():
            typer.echo(line, err=True)
    return failure.exit_code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; with --debug the traceback goes to stderr first.

    Args:
        arguments: the command line without the program's name.
    """
    options = list(arguments)[: list(arguments).index("--")] if "--" in arguments else list(arguments)
    as_json, debug = "--json" in options, "--debug" in options
    try:
        # Click prints usage errors itself and well; only JSON wants them as an object.
        code = app(args=list(arguments), prog_name="flare", standalone_mode=not as_json)
        code = code if isinstance(code, int) else 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_DEFECT
    except BrokenPipeError:
        abandon_stdout()
        return EXIT_DEFECT
    except BaseException as error:
        if not isinstance(error, Exception | KeyboardInterrupt):
            raise
        if debug:
            traceback.print_exception(error)
        return report(error, as_json=as_json)
    # Click turns an interrupt into this code without a word.
    return report(KeyboardInterrupt(), as_json=as_json) if code == EXIT_INTERRUPTED else code


def main() -> None:
    """Entry point of the `flare` script."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    if "--json" in sys.argv:
        keep_stdout_for_json()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()
    if code == EXIT_INTERRUPTED:
        # Had the interrupt met code that a library makes from text, as dataclasses do, Python would end `python -m` by
        # the signal, whatever code it is asked to exit with.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
