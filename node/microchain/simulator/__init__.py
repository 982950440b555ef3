"""The engines under a virtual clock: seeded networks, faults and adversaries, and a checker after every step."""
