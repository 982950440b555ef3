"""The running node: one engine tied to network, ledger, timers, telemetry and API."""

from microchain.runtime.node import Node, NodeSetupError
from microchain.runtime.process import main

__all__ = ["Node", "NodeSetupError", "main"]
