"""One part, in a process of its own.

    python -m benchmarks.gpu.child MODULE PART DEVICE ATTENTION FD

Findings are written to the file descriptor FD as lines of JSON, as soon as they are made. After
SIGUSR1 the process writes to standard error what each of its threads does.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import traceback

import msgspec

from benchmarks.gpu.context import Context
from benchmarks.gpu.finding import failed


def main(module: str, part: str, device: str, attention: str, report_to: str) -> int:
    os.set_inheritable(int(report_to), False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that workers are stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(int(report_to), "wb", buffering=0) as report:
        try:
            context = Context(part, device, attention)
            if context.on_gpu:
                _set_kernel_caches()
            for finding in importlib.import_module(module).run(context):
                report.write(msgspec.json.encode(finding) + b"\n")
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            ended = failed("the part ended", f"{type(error).__name__}: {reason}")
            report.write(msgspec.json.encode(ended) + b"\n")
            return 1
    return 0


def _set_kernel_caches() -> None:
    """Where compiled kernels are kept, as a worker sets it, before anything imports Triton."""
    from engine.device.kernel_caches import set_kernel_caches

    set_kernel_caches()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
