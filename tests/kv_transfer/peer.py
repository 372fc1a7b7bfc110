"""A process with a block pool that others write into; the other side of the NIXL tests.

Prints an admission as hex, then one line of JSON for every line that it reads: the values found in
the block of that number, or null after "evict".
"""

import json
import sys

from engine.runners.arithmetic_runner import ArithmeticRunner
from kv_transfer.transports.nixl.nixl_transport import NixlTransport


def main() -> None:
    num_blocks = int(sys.argv[1])
    runner = ArithmeticRunner()
    region = runner.allocate(num_blocks)
    link = NixlTransport("peer", json.loads(sys.argv[2]))
    link.register(region, num_blocks)
    print(link.admit("us").hex(), flush=True)
    for line in sys.stdin:
        if line.startswith("evict"):
            link.evict("us")
            print("null", flush=True)
            continue
        block = runner._cache[int(line)]
        print(json.dumps(sorted({int(value) for value in block.ravel()})), flush=True)


if __name__ == "__main__":
    main()
