"""For all tests."""

import signal

from hypothesis import settings

# Real InfluxDB servers, for whatever test asks for one.
pytest_plugins = ["tests.influx.servers"]

# A loaded machine is slow now and then; no test here fails for time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell starts what it puts into the background deaf to an interruption, and so all that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
