"""Where KV blocks are: allocated, found again by prefix, copied to host memory and back."""
