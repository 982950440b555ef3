"""The protocol engines: pure state machines without I/O, clock, randomness or asyncio."""
