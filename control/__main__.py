"""``./testbed VERB`` without its bootstrap: ``.venv/bin/python -m control VERB``."""

from __future__ import annotations

import signal
import sys

from control.cli import main

if __name__ == "__main__":
    # A closed terminal or a kill ends a run the way Ctrl-C does: what was started is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
