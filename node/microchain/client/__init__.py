"""What talks to a node from outside: API client, transactions from sensor readings, load generator, device client."""
