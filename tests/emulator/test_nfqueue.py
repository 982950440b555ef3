"""Messages of the kernel's packet queue: examples by hand, and whatever bytes may come."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from emulator.nfqueue import QueuedPacket, decode_error, decode_packet, encode_setup, encode_verdict


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def packet(*attributes: bytes) -> bytes:
    body = struct.pack("!BBH", 7, 0, 77) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 0x300, 0, 0, 0) + body


HEADER = attribute(1, struct.pack("!IHB", 1234, 0x0800, 2) + b"\0")
PORTS = attribute(7, struct.pack("!I", 5)) + attribute(8, struct.pack("!I", 6))


def test_a_packet_tells_number_ports_and_true_length() -> None:
    message = packet(HEADER, PORTS, attribute(13, struct.pack("!I", 1500)), attribute(10, b"E"))
    assert decode_packet(message) == QueuedPacket(1234, 5, 6, 1500)


def test_without_a_true_length_the_payload_counts_and_unknown_attributes_do_not_matter() -> None:
    message = packet(attribute(99, b"xyz"), HEADER, PORTS, attribute(10, b"E" * 21))
    assert decode_packet(message) == QueuedPacket(1234, 5, 6, 21)


def test_other_messages_are_no_packets() -> None:
    error = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -1) + bytes(16)
    assert decode_packet(error) is None
    assert decode_packet(packet(PORTS)) is None  # without its number it can't be answered


@given(st.binary(max_size=200))
def test_whatever_comes_is_decoded_or_refused(tail: bytes) -> None:
    decode_packet(tail)
    decode_packet(packet(HEADER) + tail)
    decode_error(tail)


@given(st.integers(0, len(packet(HEADER, PORTS)) - 1))
def test_a_message_cut_off_says_nothing_wrong(end: int) -> None:
    found = decode_packet(packet(HEADER, PORTS)[:end])
    assert found is None or found.number == 1234


def test_a_verdict_names_queue_packet_and_decision() -> None:
    # nlmsghdr, nfgenmsg with the queue in network order, NFQA_VERDICT_HDR with verdict and number
    expected = struct.pack("=IHHII", 32, 0x301, 1, 0, 0) + bytes([0, 0, 0, 77])
    expected += struct.pack("=HH", 12, 2) + bytes([0, 0, 0, 1, 0, 0, 4, 210])
    assert encode_verdict(77, 1234, accept=True) == expected
    assert encode_verdict(77, 1234, accept=False)[24:28] == bytes(4)


def test_setup_messages_ask_for_an_answer_and_state_their_length() -> None:
    for message in encode_setup(77, 20_000):
        length, kind, flags, _, _ = struct.unpack_from("=IHHII", message)
        assert (length, kind, flags) == (len(message), 0x302, 5)


def test_the_kernels_objection_is_put_in_words() -> None:
    answer = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -1) + bytes(16)
    assert decode_error(answer) == "EPERM: Operation not permitted"
    assert decode_error(struct.pack("=IHHIIi", 36, 2, 0, 0, 0, 0) + bytes(16)) is None
