"""A process with a block pool that others write into; the other side of the NIXL tests.

Prints its metadata as hex, then one line of JSON, the first values of the asked block, for every
block number it reads.
"""

import json
import sys

from engine.arithmetic import ArithmeticRunner
from kv_transfer.nixl_link import NixlLink


def main() -> None:
    num_blocks = int(sys.argv[1])
    runner = ArithmeticRunner()
    region = runner.allocate(num_blocks)
    link = NixlLink("peer", json.loads(sys.argv[2]))
    link.register(region, num_blocks)
    print(link.metadata().hex(), flush=True)
    for line in sys.stdin:
        block = runner._cache[int(line)]
        print(json.dumps(sorted({int(value) for value in block.ravel()})), flush=True)


if __name__ == "__main__":
    main()
