"""Mutual-TLS peer links: one WebSocket for each pair of validators, framed, bounded and measured."""
