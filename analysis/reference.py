"""Published and measured figures that ours stand beside, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CHAPTER",
    "CHAPTER_BOARD",
    "LATENCY_BLOCK_BYTES",
    "LATENCY_REFERENCES",
    "PROTOTYPE",
    "THROUGHPUT_REFERENCES",
    "THROUGHPUT_VALIDATORS",
    "LatencyReference",
    "ThroughputReference",
]

CHAPTER = (
    "Xu and Chen, Microchain (chapter, section 6): 16 Raspberry Pi 3B+, driven by a desktop (throughput: 5). One large "
    "transaction a block; a driver triggers one node after the other. Its ranges' ends are taken for K = 4 "
    "and K = 16."
)
PROTOTYPE = (
    "The authors' public prototype, run for comparison: all nodes on one machine with 2 cores, loopback. One 128 KB "
    "transaction and a driver in sequence (means), or a newer version, one 1 KB transaction and a concurrent driver "
    "(medians; at K = 16 eight of ten rounds forked)."
)
CHAPTER_BOARD = "Raspberry Pi 3 Model B Plus"
"""As the kernel names the chapter's boards: a ratio to the chapter is printed only if every validator ran on them."""


@dataclass(frozen=True)
class LatencyReference:
    """Latencies in ms of one committee size with 128 KB blocks; None: not published."""

    source: str
    validators: int
    T_ct: float
    T_bp: float
    T_cf: float


@dataclass(frozen=True)
class ThroughputReference:
    """Throughput of 5 validators at one block size. MB is 2^20 bytes."""

    source: str
    block_bytes: int
    mb_per_hour: float
    T_bc_ms: float | None


_SEQUENTIAL, _CONCURRENT = "prototype, one 128 KB tx", "prototype, one 1 KB tx"

LATENCY_REFERENCES = (
    LatencyReference(_SEQUENTIAL, 4, 56, 132, 254),
    LatencyReference(_SEQUENTIAL, 8, 89, 238, 1048),
    LatencyReference(_SEQUENTIAL, 16, 144, 488, 2764),
    LatencyReference(_CONCURRENT, 4, 31, 42, 84),
    LatencyReference(_CONCURRENT, 8, 82, 95, 407),
    LatencyReference(_CONCURRENT, 16, 140, 295, 1486),
    LatencyReference("chapter, 16 Pis", 4, 162, 500, 1400),
    LatencyReference("chapter, 16 Pis", 16, 246, 1700, 21500),
)
LATENCY_BLOCK_BYTES = 128 << 10

THROUGHPUT_REFERENCES = (
    ThroughputReference("prototype", 512 << 10, 2155, None),
    ThroughputReference("prototype", 1 << 20, 3398, None),
    ThroughputReference("prototype", 2 << 20, 2906, None),
    ThroughputReference("prototype", 4 << 20, 3975, None),
    ThroughputReference("chapter, 5 Pis", 512 << 10, 202, 8900),
    ThroughputReference("chapter, 5 Pis", 1 << 20, 293, 12300),
    ThroughputReference("chapter, 5 Pis", 2 << 20, 405, 17800),
    ThroughputReference("chapter, 5 Pis", 4 << 20, 263, 54800),
)
THROUGHPUT_VALIDATORS = 5
