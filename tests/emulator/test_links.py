"""When frames arrive, decided without a clock or a kernel."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.links import LinkModel, Plan, WaitingFrames
from emulator.state import Link

A, B, C = 1, 2, 3
FRAME = 1250 - 38  # 10,000 bits on the wire


def model(links: dict[int, Link], shared_rate: float = 0.0, seed: int = 1) -> LinkModel:
    chance = random.Random(seed)
    return LinkModel(Plan(1, links, shared_rate), chance.random, chance.expovariate)


def test_a_perfect_link_delays_nothing() -> None:
    assert model({}).arrival(5.0, A, B, FRAME) == 5.0


def test_a_frame_is_delayed_on_both_links() -> None:
    links = model({A: Link(delay_s=0.005), B: Link(delay_s=0.002)})
    assert links.arrival(1.0, A, B, FRAME) == pytest.approx(1.007)
    assert links.arrival(1.0, B, A, FRAME) == pytest.approx(1.007)
    assert links.arrival(1.0, A, C, FRAME) == pytest.approx(1.005)


def test_frames_queue_for_a_link_of_limited_rate() -> None:
    links = model({A: Link(rate=1e6)})
    assert [links.arrival(0.0, A, B, FRAME) for _ in range(3)] == pytest.approx([0.01, 0.02, 0.03])
    assert links.arrival(0.0, B, A, FRAME) == pytest.approx(0.01)  # full duplex
    assert links.arrival(1.0, A, B, FRAME) == pytest.approx(1.01)  # idle since


def test_what_a_full_buffer_cannot_hold_is_lost() -> None:
    links = model({A: Link(rate=1e6)})
    arrivals = [links.arrival(0.0, A, B, FRAME) for _ in range(40)]
    kept = [a for a in arrivals if a is not None]
    assert 20 <= len(kept) <= 21 and 0.2 <= max(kept) < 0.22  # 0.2 s, and the one being sent


def test_hosts_on_one_medium_share_its_rate_and_relay_over_the_access_point() -> None:
    links = model({A: Link(shared=True), B: Link(shared=True)}, shared_rate=1e6)
    assert links.arrival(0.0, A, B, FRAME) == pytest.approx(0.02)  # up and down
    assert links.arrival(0.0, C, A, FRAME) == pytest.approx(0.03)  # C is on a cable
    assert links.arrival(0.0, C, 4, FRAME) == 0.0


def test_loss_is_as_frequent_as_asked() -> None:
    links = model({A: Link(loss=0.1)})
    lost = sum(links.arrival(float(n), A, B, FRAME) is None for n in range(20_000))
    assert 0.09 < lost / 20_000 < 0.11


def test_jitter_has_the_mean_asked_and_no_frame_overtakes_another() -> None:
    links = model({A: Link(jitter_s=0.002)})
    far_apart = [(links.arrival(float(n), A, B, FRAME) or 0.0) - n for n in range(20_000)]
    assert sum(far_apart) / len(far_apart) == pytest.approx(0.002, rel=0.05)
    close = [links.arrival(1e6 + n * 1e-6, A, B, FRAME) or 0.0 for n in range(1000)]
    assert close == sorted(close)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1 << 32)), max_size=50))
def test_waiting_frames_come_out_by_time_then_by_order(frames: list[tuple[float, int]]) -> None:
    waiting = WaitingFrames()
    assert all(waiting.add(time, packet) for time, packet in frames)
    assert waiting.next_time() == (min(t for t, _ in frames) if frames else None)
    assert waiting.due(-1.0) == []
    assert waiting.due(10.0) == [packet for _, packet in sorted(frames, key=lambda f: f[0])]
    assert waiting.next_time() is None


def test_no_more_frames_wait_than_there_is_room_for() -> None:
    waiting = WaitingFrames(most=2)
    assert [waiting.add(0.0, n) for n in range(3)] == [True, True, False]
