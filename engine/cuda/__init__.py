"""Triton kernels for GPUs: fused operations and paged attention of decode steps."""
