"""The decoder's layers in C++ for CPUs, compiled where they run; PyTorch stands in without them."""
