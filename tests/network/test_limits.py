"""Rates, back-off, penalties and the clock estimate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from microchain.network.limits import Backoff, Penalty, TokenBucket
from microchain.network.offset import DRIFT_PPM, OffsetEstimator


def test_a_bucket_lets_a_burst_pass_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=10.0, burst=20.0, now=0.0)
    assert bucket.take(20.0, now=0.0) == 0.0
    assert bucket.take(5.0, now=0.0) == 0.5
    assert bucket.take(0.0, now=0.5) == 0.0
    assert bucket.take(20.0, now=100.0) == 0.0, "what is not used is saved up to one burst"
    assert bucket.take(1.0, now=100.0) > 0


def test_backoff_doubles_to_its_maximum_with_jitter_and_resets() -> None:
    backoff = Backoff(0.1, 1.0, jitter=lambda: 1.0)
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next() == 0.1
    assert Backoff(1.0, 1.0, jitter=lambda: 0.0).next() == 0.5


def test_penalties_grow_and_are_forgotten() -> None:
    penalty = Penalty(first=5.0, most=15.0, forget_after=100.0)
    assert penalty.remaining(0.0) == 0.0
    assert penalty.impose(0.0) == 5.0
    assert penalty.remaining(2.0) == 3.0
    assert penalty.impose(6.0) == 10.0
    assert penalty.impose(20.0) == 15.0
    assert penalty.impose(500.0) == 5.0


@given(
    offset=st.integers(-(10**15), 10**15),
    paths=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**6)), min_size=1),
)
def test_the_true_offset_is_always_within_the_bound(offset: int, paths: list[tuple[int, int, int]]) -> None:
    estimator, now = OffsetEstimator(), 10**18
    for there, back, held in paths:
        t2 = now + there + offset
        t4 = now + there + held + back
        estimator.add(now, t2, t2 + held, t4)
        now = t4 + 10**9
    estimate = estimator.estimate(now)
    assert estimate is not None
    assert abs(estimate.offset_ns - offset) <= estimate.bound_ns


@given(
    offset=st.integers(-(10**15), 10**15),
    ppm=st.floats(-DRIFT_PPM * 0.999, DRIFT_PPM * 0.999),
    paths=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**10), st.integers(0, 10**11)),
        min_size=1,
    ),
)
def test_a_clock_that_drifts_stays_within_the_bound_also_during_an_exchange(
    offset: int, ppm: float, paths: list[tuple[int, int, int, int]]
) -> None:
    def peer(own: int) -> int:
        return own + offset + round(own * ppm * 1e-6)

    estimator, now = OffsetEstimator(), 0
    for there, back, held, pause in paths:
        received, answered = now + there, now + there + held
        estimator.add(now, peer(received), peer(answered), answered + back)
        now = answered + back + pause
    estimate = estimator.estimate(now)
    if estimate is not None:  # a round trip that the drift makes negative is left out
        assert abs(estimate.offset_ns - (peer(now) - now)) <= estimate.bound_ns + 2


def test_the_estimate_prefers_a_short_round_trip_until_it_has_aged() -> None:
    estimator = OffsetEstimator()
    estimator.add(0, 50, 50, 100)
    estimator.add(1000, 1600, 1600, 2000)
    estimate = estimator.estimate(2000)
    assert estimate is not None and estimate.rtt_ns == 100
    late = 10**9
    estimator.add(late, late + 500, late + 500, late + 1000)
    estimate = estimator.estimate(late + 1000)
    assert estimate is not None and estimate.rtt_ns == 1000, f"{DRIFT_PPM} ppm of a second outweigh 450 ns"


def test_impossible_timestamps_are_ignored() -> None:
    estimator = OffsetEstimator()
    estimator.add(100, 0, 500, 200)
    estimator.add(100, 500, 400, 200)
    assert estimator.estimate(1000) is None
