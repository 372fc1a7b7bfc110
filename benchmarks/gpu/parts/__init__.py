"""The parts of the script: each module's `run` yields findings, in a process of its own."""
