"""Telemetry: timing events as line protocol in a local spool (docs/telemetry.md)."""
