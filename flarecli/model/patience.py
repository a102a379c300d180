"""When a download is tried again, and after which pause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

_MAX_IDLE_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 120.0


class Response(Protocol):
    """An answer of a server; the class itself differs between releases of huggingface_hub."""

    @property
    def status_code(self) -> int:
        """The number of the answer."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Without regard to case."""
        ...


@dataclass(slots=True)
class Patience:
    """Counts the attempts in a row that brought nothing.

    Attributes:
        pause: waits for that many seconds.
        idle_attempts: how many there were.
    """

    pause: Callable[[float], None]
    idle_attempts: int = 0

    def wait(self, *, progressed: bool, response: Response | None = None) -> bool:
        """Pause before the next attempt, longer after each that brought nothing and as long as the server asks for.

        Args:
            progressed: whether the last attempt brought something.
            response: what the server refused it with, if it did.

        Returns:
            False, without a pause, where too many attempts brought nothing.
        """
        self.idle_attempts = 0 if progressed else self.idle_attempts + 1
        if self.idle_attempts >= _MAX_IDLE_ATTEMPTS:
            return False
        seconds = _FIRST_PAUSE_SECONDS * 2**self.idle_attempts
        self.pause(max(seconds, min(_asked_seconds(response), _LONGEST_PAUSE_SECONDS)))
        return True


def is_passing(response: Response | None) -> bool:
    """Whether a refusal goes away by waiting: too slow, too many requests, or trouble of the server's own."""
    return response is not None and (response.status_code in (408, 429) or response.status_code >= 500)


def _asked_seconds(response: Response | None) -> float:
    """The pause that the header ``Retry-After`` asks for, given in seconds or as a date; 0 without one."""
    text = "" if response is None else response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
