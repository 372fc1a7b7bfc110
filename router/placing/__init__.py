"""Which workers serve a request: what is known of them, what it would cost, which are best."""
