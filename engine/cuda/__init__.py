"""What only a GPU needs: fused kernels, paged decoding, and steps recorded as graphs."""
