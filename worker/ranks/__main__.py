"""`python -m worker.ranks RANK SIZE ORDERS CALLS MEETING`: started by rank 0, with open files."""

import os
import signal
import sys

from runtime.logs import start_logging
from worker.ranks.follow import follow

if __name__ == "__main__":
    # Whoever ends a worker by signals means rank 0, which drains first.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    start_logging(os.environ.get("TANDEM_LOG_LEVEL", "info"))
    follow(*map(int, sys.argv[1:]))
