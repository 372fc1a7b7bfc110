"""The front doors and the conductor: text comes in, a pair of workers serves it, text goes out."""
