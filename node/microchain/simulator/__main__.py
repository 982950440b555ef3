"""``python -m microchain.simulator``."""

from __future__ import annotations

import sys

from microchain.simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
