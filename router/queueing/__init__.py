"""Who may go on to be placed, and who waits or is turned away."""
