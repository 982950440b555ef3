"""A Microchain validator: consensus engine, ledger, network, API and telemetry of one node."""

__version__ = "0.1.0"
