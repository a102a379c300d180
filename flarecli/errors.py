"""Every error that a user of flarecli can cause or meet, and the exit code it becomes.

    FlareError                 1  (never raised itself)
    ├── InputError             3  photos, paths, options that contradict the data
    │   └── OutputExists       3  the output is there already
    ├── OutputError            3  the output can't be written (disk full, no permission)
    ├── MemoryExceeded         4  the work does not fit into memory
    ├── WeightsError           5  weights are missing, damaged, of another model, or not allowed by the licence policy
    ├── PartialResult          6  a result was written, but fewer photos have cameras than were asked for
    ├── ReconstructionError    7  no cameras survive verification
    ├── VerificationError      7  a written file does not read back as it was meant
    └── MissingDependency      3  an optional package is not installed

Code 2 is a usage error of the command line (typer's own), 130 an interrupt.
"""

import errno
import re

_LONGEST_LINE = 200
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class FlareError(Exception):
    """An error with one line for the user, a hint what to do, and an exit code.

    Args:
        message: one line that says what went wrong and with which file.
        hint: one line that says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(FlareError):
    """The given photos, files or options can't be used."""

    exit_code = 3


class OutputExists(InputError):
    """The output folder is there already and nothing said what to do with it."""


class OutputError(FlareError):
    """The output can't be written."""

    exit_code = 3


class MemoryExceeded(FlareError):
    """The work does not fit into the memory of the device or the machine."""

    exit_code = 4


class WeightsError(FlareError):
    """Weights are missing, damaged, of another model, or not allowed by the licence policy."""

    exit_code = 5


class PartialResult(FlareError):
    """A result was written, but fewer photos have cameras than were asked for."""

    exit_code = 6


class ReconstructionError(FlareError):
    """No usable cameras could be found for these photos."""

    exit_code = 7


class VerificationError(FlareError):
    """A file that was just written does not read back as it was meant."""

    exit_code = 7


class MissingDependency(FlareError):
    """An optional package is needed and not installed."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of an error's text without colours, cut at 200 characters; its class where it says nothing."""
    lines = _TERMINAL_CODE.sub("", str(error)).strip().splitlines()
    return lines[0][:_LONGEST_LINE] if lines else type(error).__name__


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: libraries that are interrupted while they load call it an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def defect_message(error: BaseException) -> str:
    """One line for an exception that nobody foresaw; with the name of its class, for the text alone may say nothing."""
    return f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"


def as_flare_error(error: BaseException) -> FlareError | None:
    """The project's error for an exception that any library may raise: out of memory, disk full.

    Args:
        error: any exception.

    Returns:
        The error itself where it is a FlareError, its translation, or None for an exception that is a defect.
    """
    if isinstance(error, FlareError):
        return error
    text = str(error)
    # By name, because importing torch only to compare classes costs seconds.
    names = {cls.__name__ for cls in type(error).__mro__}
    out_of_memory = isinstance(error, MemoryError) or "OutOfMemoryError" in names
    if out_of_memory or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        message = "out of memory" + (f": {first_line(error)}" if text.strip() else "")
        return MemoryExceeded(message, "use --max-memory, --preset fast, fewer photos, or --device cpu")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return OutputError(f"no space left{where}", "free some space or write to another disk with -o")
    return None
