"""KV blocks: allocation, the prefix cache, preemption, and copies to host memory and back."""
