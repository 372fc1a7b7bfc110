"""Published measurements beside what the simulation says of the same settings."""
