"""``./testbed bench``: figures of this machine, printed beside what they should reach (docs/benchmarks.md)."""
