"""When a shipper sends, and how much."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.telemetry.pacing import MAX_RETRY_AFTER_S, Backoff, BatchLimit, parse_retry_after


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_delays_double_up_to_a_bound_and_are_drawn_from_the_whole_of_it(draws: list[float]) -> None:
    drawn = iter(draws)
    backoff = Backoff(Clock(), base_s=0.5, most_s=30, draw=lambda: next(drawn))
    for failures, draw in enumerate(draws, 1):
        assert backoff.failed() == pytest.approx(0.5 + draw * min(30, 0.5 * 2**failures))


def test_two_nodes_that_failed_together_do_not_come_back_together() -> None:
    delays = {Backoff(Clock()).failed() for _ in range(20)}
    assert len(delays) == 20


def test_an_attempt_is_due_when_its_time_has_come_and_at_once_after_a_success() -> None:
    clock = Clock()
    backoff = Backoff(clock, base_s=1, draw=lambda: 0.5)
    assert backoff.is_ready
    assert backoff.failed() == 2.0
    clock.now += 1.99
    assert not backoff.is_ready
    clock.now += 0.01
    assert backoff.is_ready
    backoff.failed()
    backoff.succeeded()
    assert backoff.is_ready
    assert backoff.failed() == 2.0, "it begins anew"


@given(st.none() | st.floats(allow_nan=False), st.floats(0, 1))
def test_the_server_may_ask_for_more_time_but_not_for_ever(asked: float | None, draw: float) -> None:
    delay = Backoff(Clock(), base_s=1, most_s=30, draw=lambda: draw).failed(asked)
    assert delay >= min(asked or 0, MAX_RETRY_AFTER_S)
    assert delay <= MAX_RETRY_AFTER_S + 2


NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 7 ", 7.0),
        (format_datetime(NOW.replace(minute=2), usegmt=True), 120.0),
        (format_datetime(NOW.replace(year=2020), usegmt=True), 0.0),
        ("", None),
        ("-3", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW.timestamp()) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]+ [A-Z][a-z]{2} [0-9]+ [0-9:]* [A-Z+-]*[0-9]*", fullmatch=True))
def test_no_retry_after_does_harm(text: str) -> None:
    seconds = parse_retry_after(text, 0.0)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


class Server:
    """Refuses every batch with a bad line and each of more lines than it takes; else notes what it has got."""

    def __init__(self, bad: set[int], most: int) -> None:
        self.bad, self.most = bad, most
        self.requests = 0
        self.got: list[int] = []
        self.aside: list[int] = []

    def feed(self, total: int, limit: BatchLimit) -> None:
        """What the shipper does with the answers."""
        cursor = 0
        while cursor < total:
            batch = range(cursor, min(total, cursor + limit.lines))
            self.requests += 1
            if len(batch) > self.most:
                limit.too_much(len(batch))
            elif not self.bad.isdisjoint(batch):
                if len(batch) > 1:
                    limit.refused(len(batch))
                    continue
                self.aside += batch
                limit.passed(1)
                cursor += 1
            else:
                self.got += batch
                limit.passed(len(batch))
                cursor += len(batch)


@given(st.integers(0, 300), st.data(), st.integers(1, 400))
def test_only_bad_lines_are_set_aside_whatever_the_server_takes(total: int, data: st.DataObject, most: int) -> None:
    bad = data.draw(st.sets(st.integers(0, max(0, total - 1)), max_size=20)) & set(range(total))
    server = Server(bad, most)
    server.feed(total, BatchLimit(100))
    assert server.got == [line for line in range(total) if line not in bad]
    assert server.aside == sorted(bad)


@given(st.integers(0, 4999))
def test_a_bad_line_among_thousands_costs_a_few_requests(place: int) -> None:
    server = Server({place}, 5000)
    server.feed(5000, BatchLimit(5000))
    assert server.requests <= 2 * math.log2(5000) + 2


def test_a_batch_that_was_too_much_is_halved_and_grows_back() -> None:
    limit = BatchLimit(1000)
    for expected in (500, 250, 125):
        limit.too_much(limit.lines)
        assert limit.lines == expected
    limit.passed(125)
    assert limit.lines == 140
    for _ in range(100):
        limit.passed(limit.lines)
    assert limit.lines == 1000
    for _ in range(20):
        limit.too_much(limit.lines)
    assert limit.lines == 1
