"""The second leg: policy and process of the workers that write answers."""
