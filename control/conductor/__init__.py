"""The conductor owns one cell from *ready* to *drained*: it drives the load, starts no process and changes no host."""
