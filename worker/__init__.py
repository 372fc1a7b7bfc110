"""What every worker is, whichever attempt it serves: one engine, its step loop, its handoffs."""
