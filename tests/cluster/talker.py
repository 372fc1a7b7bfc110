"""A child that says something beside the point, is ready, and waits for its end."""

import sys

if __name__ == "__main__":
    print("12:00 INFO all is well", file=sys.stderr, flush=True)
    print("12:01 WARNING mind the gap", file=sys.stderr, flush=True)
    print("{}", flush=True)
    sys.stdin.read()
