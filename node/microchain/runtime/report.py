"""What a node says about itself: the bodies of GET /v1/status and GET /metrics."""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microchain.runtime.node import Node

__all__ = ["build_metrics", "build_status", "measure_rss"]


def measure_rss() -> int:
    """This process's resident memory in bytes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - Path costs more than the read
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def build_status(node: Node) -> dict[str, Any]:
    """The body of GET /v1/status."""
    engine = node.engine.status()
    peers = []
    for peer in node.mesh.peers():
        offset = peer.offset
        peers.append(
            {
                "name": peer.name,
                "connected": peer.connected,
                "rtt_ns": offset.rtt_ns if offset else None,
                "offset_ns": offset.offset_ns if offset else None,
                "bound_ns": offset.bound_ns if offset else None,
            }
        )
    return {
        "name": node.name,
        "chain_id": node.genesis.chain_id().hex(),
        "run_id": node.genesis.run_id,
        "ready": node.is_ready(),
        "peers": peers,
        "head": {"height": engine.head_height, "id": engine.head.hex()},
        "justified": {"height": engine.justified_height, "id": engine.justified.hex()},
        "finalized": {"height": engine.finalized_height, "id": engine.finalized.hex()},
        "pool": {
            "transactions": engine.pool_transactions,
            "bytes": engine.pool_bytes,
            "system": engine.pool_system,
        },
        "jobs": engine.jobs,
        "syncing": engine.syncing,
        "observing": engine.observing,
        "evidence": engine.evidence,
        "uptime_s": node.uptime_s,
        "rss_bytes": measure_rss(),
        "cpu_s": time.process_time(),
        "board": dict(node.recorder.last_board),
        "telemetry": {"points": node.recorder.points, "dropped": node.recorder.dropped, **_shipping(node)},
        "accepted_total": node.actions.accepted,
        "finalized_transactions_total": node.actions.finalized,
    }


def _shipping(node: Node) -> dict[str, Any]:
    """What became of the points that a node with a section ``influx`` streams; nothing without it."""
    if node.shipper is None:
        return {}
    state = node.shipper.state
    return {
        "shipped": state.shipped,
        "waiting_bytes": state.waiting_bytes,
        "rejected": state.rejected,
        "ship_error": state.error,
    }


def build_metrics(node: Node) -> dict[str, float]:
    """Counters and gauges by Prometheus name."""
    engine = node.engine.status()
    metrics: dict[str, float] = {
        "head_height": engine.head_height,
        "justified_height": engine.justified_height,
        "finalized_height": engine.finalized_height,
        "pool_transactions": engine.pool_transactions,
        "pool_bytes": engine.pool_bytes,
        "evidence": engine.evidence,
        "syncing": engine.syncing,
        "observing": engine.observing,
        "ready": node.is_ready(),
        "uptime_seconds": node.uptime_s,
        "resident_memory_bytes": measure_rss(),
        "cpu_seconds_total": time.process_time(),
        "transactions_accepted_total": node.actions.accepted,
        "transactions_finalized_total": node.actions.finalized,
        "events_total": node.driver.events,
        "events_waiting": node.driver.backlog,
        "ledger_writes_waiting": node.writer.pending,
        "telemetry_points_total": node.recorder.points,
        "telemetry_dropped_total": node.recorder.dropped,
    }
    if node.shipper is not None:
        state = node.shipper.state
        metrics["telemetry_shipped_total"] = state.shipped
        metrics["telemetry_waiting_bytes"] = state.waiting_bytes
        metrics["telemetry_rejected_total"] = state.rejected
        metrics["telemetry_shipping"] = not state.error
    for phase, counts in node.mesh.counters.phases.items():
        for name in ("sent_messages", "sent_bytes", "received_messages", "received_bytes"):
            metrics[f'{name}_total{{phase="{phase}"}}'] = getattr(counts, name)
    for incident, count in node.mesh.counters.incidents.items():
        metrics[f'network_incidents_total{{kind="{incident}"}}'] = count
    for peer in node.mesh.peers():
        metrics[f'peer_connected{{peer="{peer.name}"}}'] = peer.connected
        if peer.offset is not None:
            metrics[f'peer_rtt_seconds{{peer="{peer.name}"}}'] = peer.offset.rtt_ns / 1e9
            metrics[f'peer_offset_seconds{{peer="{peer.name}"}}'] = peer.offset.offset_ns / 1e9
    return {name: float(value) for name, value in metrics.items()}
