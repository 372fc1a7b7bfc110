"""What every worker is, whichever leg it serves: one engine, its step loop, its handoffs."""
