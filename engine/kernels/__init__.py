"""The decoder's layers in C++ for CPUs, compiled where they run; without them PyTorch computes."""
