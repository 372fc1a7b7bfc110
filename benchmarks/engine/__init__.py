"""How far the engine is from what the machine can do, and from what others do on it."""
