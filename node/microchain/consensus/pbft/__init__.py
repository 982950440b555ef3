"""Practical Byzantine Fault Tolerance (Castro and Liskov, OSDI 1999) behind the same interface (docs/pbft.md)."""
