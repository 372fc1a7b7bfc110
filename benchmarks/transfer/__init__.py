"""What the transfer of KV blocks between two processes gives, beside what else could carry them."""
