"""What a command says: results on stdout, everything for people on stderr, messages to a log file."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import typer

from flarecli.cli.failures import failure_of
from flarecli.cli.options import TalkOptions
from flarecli.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from flarecli.job import Progress

LOGGER = logging.getLogger("flarecli")
_WIDE = 1000
_MAX_BARS = 12
_kept_stdout: list[TextIO] = []
_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def plain(value: Any) -> Any:
    """The same value in types that JSON knows; NaN and infinity become null, paths and arrays text and lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False)
    typer.echo(text, file=_kept_stdout[-1] if _kept_stdout else None)


def keep_stdout_for_json() -> None:
    """Point file descriptor 1 at stderr, so that nothing a library prints, in Python or C++, mixes with the object."""
    sys.stdout.flush()
    _kept_stdout.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)


def abandon_stdout() -> None:
    """Send what is still unwritten nowhere: its reader has left, and an error while Python ends would only be noise."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, *(stream.fileno() for stream in _kept_stdout)):
        os.dup2(nowhere, descriptor)


class _ConsoleHandler(logging.Handler):
    """Log records through the console, so that they appear above a running progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        self.console.print(prefix + self.format(record), markup=False, highlight=False)


@dataclass
class Talk:
    """The voice of one command.

    Use it as a context manager: it sets logging up and takes its handlers away again.

    Attributes:
        options: what the command line asked for.
    """

    options: TalkOptions
    _handlers: list[tuple[logging.Logger, logging.Handler]] = field(default_factory=list)

    @cached_property
    def console(self) -> Console:
        """Console on stderr; plain where stderr is no terminal or NO_COLOR is set."""
        from rich.console import Console

        return Console(stderr=True, soft_wrap=True)

    def __enter__(self) -> Talk:
        options = self.options
        level = logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO
        logger = logging.getLogger() if options.verbose > 1 else LOGGER
        self._attach(logger, _ConsoleHandler(self.console), level)
        if options.log_file:
            try:
                to_file = logging.FileHandler(options.log_file, encoding="utf-8")
            except OSError as error:
                message = f"the log file {options.log_file} can't be written: {error.strerror}"
                raise OutputError(message, "choose another --log-file") from error
            to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            self._attach(logger, to_file, logging.DEBUG)
        logger.setLevel(logging.DEBUG if options.log_file else level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An exit code is no error, and nobody is told that the reader of stdout left.
        if error is not None and not isinstance(error, typer.Exit | BrokenPipeError):
            self._log_failure(error)
        for logger, handler in self._handlers:
            logger.removeHandler(handler)
            handler.close()
        self._handlers.clear()

    def _log_failure(self, error: BaseException) -> None:
        """Write an error to the log file alone: the user is told of it when the command is over and its log closed."""
        told = "\n".join(failure_of(error).lines())
        trace = (type(error), error, error.__traceback__)
        record = LOGGER.makeRecord(LOGGER.name, logging.ERROR, __file__, 0, told, (), trace)
        for _, handler in self._handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)

    def _attach(self, logger: logging.Logger, handler: logging.Handler, level: int) -> None:
        handler.setLevel(level)
        logger.addHandler(handler)
        self._handlers.append((logger, handler))

    def say(self, text: str) -> None:
        """A line for people; silent with --quiet."""
        LOGGER.info(text)

    def result(self, value: Mapping[str, Any]) -> None:
        """The result object, where --json asked for it."""
        if self.options.json:
            print_json(value)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """A table on stdout, for commands whose result is a table; columns never wrap where stdout is no terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        # A pipe or a file has no width; 80 columns would cut paths.
        console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
        if title:
            console.print(Text(title, style="bold"))
        console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback ``on_progress(stage, done, total)``: bars on a terminal, one line per finished stage elsewhere."""
        if self.options.quiet or not self.console.is_terminal:
            lines = StageLines(self)
            yield lines
            lines.close()
            return
        with _bars(self.console) as bars:
            yield StageBars(bars)


class StageLines:
    """Says how long each stage took."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.stage: str | None = None
        self.started = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note progress; a new stage closes the one before."""
        if stage != self.stage:
            self.close()
            self.stage, self.started = stage, time.monotonic()
        LOGGER.debug("%s %d/%d", stage, done, total)

    def close(self) -> None:
        """Report the last stage."""
        if self.stage is not None:
            self.talk.say(f"{self.stage}: {time.monotonic() - self.started:.1f} s")
        self.stage = None


class StageBars:
    """One bar per stage."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage; a new stage completes those before."""
        if stage not in self.tasks:
            for task in self.bars.tasks:
                self.bars.update(task.id, completed=task.total or 1, total=task.total or 1)
            self.tasks[stage] = self.bars.add_task(stage, total=total or None)
            if len(self.tasks) > _MAX_BARS:  # a batch has stages without end
                self.bars.remove_task(self.tasks.pop(next(iter(self.tasks))))
        self.bars.update(self.tasks[stage], completed=done, total=total or None)


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)
