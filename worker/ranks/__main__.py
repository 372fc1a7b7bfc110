"""`python -m worker.ranks RANK SIZE ORDERS CALLS HEARTBEATS STORE`: started by rank 0.

The last four arguments are file descriptors that rank 0 has opened.
"""

import gc
import os
import signal
import sys

from runtime.logs import start_logging
from worker.ranks.die_with_parent import die_with_parent

if __name__ == "__main__":
    gc.disable()  # while modules are loaded, the collector would scan them repeatedly for nothing
    die_with_parent()
    # Signals are for rank 0, which drains first and then ends the others.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    start_logging(os.environ.get("TANDEM_LOG_LEVEL", "info"))
    from worker.ranks.rank_main import run_rank

    run_rank(*map(int, sys.argv[1:]))
