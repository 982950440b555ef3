"""What clients and the operator ask of a node: HTTP and WebSocket."""
