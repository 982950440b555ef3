"""For all tests."""

from hypothesis import settings

# Real InfluxDB servers, for whatever test asks for one.
pytest_plugins = ["tests.influx.servers"]

# A loaded machine is slow now and then; no test here fails for time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
