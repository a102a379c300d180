"""What every test relies on."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# A shell starts background jobs with Ctrl-C ignored, and the programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rename_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Let the n-th renaming of a path from now on raise an error once; gives the list of all targets to come."""

    def arrange(at: int, problem: BaseException | type[BaseException]) -> list[Path]:
        rename, calls = Path.rename, []

        def fails_once(self: Path, place: Path) -> Path:
            calls.append(place)
            if len(calls) == at + 1:
                raise problem
            return rename(self, place)

        monkeypatch.setattr(Path, "rename", fails_once)
        return calls

    return arrange
