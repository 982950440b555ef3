"""For all tests."""

from hypothesis import settings

# A loaded machine is slow now and then; no test here fails for time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
