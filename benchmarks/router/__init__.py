"""What the router costs: CPU time for each token, and what it adds to the time of each."""
