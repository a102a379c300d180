"""Pauses between the attempts of a download."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from flarecli.model.patience import Patience, is_passing


@dataclass
class Answer:
    status_code: int
    headers: dict[str, str] = field(default_factory=dict)


def test_pauses_grow_until_patience_ends_and_progress_renews_it() -> None:
    pauses: list[float] = []
    patience = Patience(pauses.append)
    assert [patience.wait(progressed=False) for _ in range(4)] == [True] * 4
    assert patience.wait(progressed=True)
    assert [patience.wait(progressed=False) for _ in range(6)] == [True] * 4 + [False] * 2
    assert pauses == [2, 4, 8, 16, 1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("1", 2), ("999999", 120), ("soon", 2), ("", 2), ("-5", 2), ("1e9", 2)]
)
def test_a_server_may_ask_for_more_but_not_for_hours(text: str, seconds: float) -> None:
    pauses: list[float] = []
    Patience(pauses.append).wait(progressed=False, response=Answer(503, headers={"Retry-After": text}))
    assert pauses == [seconds]


@pytest.mark.parametrize(("offset", "seconds"), [(40, 40), (-40, 2)])
def test_the_pause_may_be_given_as_a_date(offset: float, seconds: float) -> None:
    pauses: list[float] = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=offset), usegmt=True)
    Patience(pauses.append).wait(progressed=False, response=Answer(429, headers={"Retry-After": date}))
    assert pauses[0] == pytest.approx(seconds, abs=10)


def test_which_refusals_go_away() -> None:
    assert [status for status in (400, 401, 403, 404, 408, 416, 429, 500, 503) if is_passing(Answer(status))] == [
        408,
        429,
        500,
        503,
    ]
    assert not is_passing(None)
