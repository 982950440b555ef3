"""Every point of the bucket goes, and nothing else: it can be written to again."""

from __future__ import annotations

import pytest

from control.influx.purge import main
from tests.influx.servers import InfluxServer


def test_the_bucket_is_empty_afterwards_and_takes_points(
    influx_server: InfluxServer, capsys: pytest.CaptureFixture[str]
) -> None:
    influx_server.write(["block,run=a value=1i 1", "board,run=b value=2i 1700000000000000000"])
    assert influx_server.count() == 2
    arguments = ["--connection", str(influx_server.connection_file)]
    assert main(arguments) == 0
    assert influx_server.count() == 0
    influx_server.write("block,run=c value=1i 1")
    assert influx_server.count() == 1
    influx_server.stop()
    assert main(arguments) == 3
    assert "can't be reached" in capsys.readouterr().err
