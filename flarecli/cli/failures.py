"""What an error means to the user, whichever way it is told: on stderr, as JSON, or in a log file."""

from __future__ import annotations

from dataclasses import dataclass

from flarecli.errors import as_flare_error, defect_message, was_interrupted

EXIT_USAGE, EXIT_DEFECT, EXIT_INTERRUPTED = 2, 1, 130


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the user's words.

    Attributes:
        name: class of the error, as ``--json`` gives it.
        message: one line that says what went wrong.
        hint: one line that says what to do about it; empty where nothing is to be done.
        exit_code: what the program ends with.
    """

    name: str
    message: str
    hint: str
    exit_code: int

    def lines(self) -> list[str]:
        """The lines for people."""
        first = self.message if self.exit_code == EXIT_INTERRUPTED else f"error: {self.message}"
        return [first, f"hint: {self.hint}"] if self.hint else [first]


def failure_of(error: BaseException) -> Failure:
    """The user's words for whatever ended a command; what nobody foresaw is a defect of the program."""
    if was_interrupted(error):
        return Failure("Interrupted", "interrupted", "", EXIT_INTERRUPTED)
    known = as_flare_error(error)
    if known is not None:
        return Failure(type(known).__name__, known.message, known.hint, known.exit_code)
    usage = getattr(error, "format_message", None)
    if callable(usage):
        return Failure("UsageError", str(usage()), "see flare --help", EXIT_USAGE)
    hint = "run again with --debug and report the traceback"
    return Failure("InternalError", defect_message(error), hint, EXIT_DEFECT)
