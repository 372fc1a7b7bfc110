"""What things cost on this machine: figures as ratios of what is measured in the same run."""
