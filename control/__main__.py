"""``./testbed VERB`` without its bootstrap: ``.venv/bin/python -m control VERB``."""

from __future__ import annotations

import sys

from control.cli import main

if __name__ == "__main__":
    sys.exit(main())
