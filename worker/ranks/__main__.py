"""`python -m worker.ranks RANK SIZE ORDERS CALLS PULSE MEETING`: started by rank 0, files open."""

import gc
import os
import signal
import sys

from runtime.logs import start_logging
from worker.ranks.die_with_parent import die_with_parent

if __name__ == "__main__":
    gc.disable()  # until all is loaded: it would look through it again and again, for nothing
    die_with_parent()
    # Whoever ends a worker by signals means rank 0, which drains first.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    start_logging(os.environ.get("TANDEM_LOG_LEVEL", "info"))
    from worker.ranks.rank_main import run_rank

    run_rank(*map(int, sys.argv[1:]))
