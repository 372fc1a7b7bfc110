"""The second attempt: policy and process of the workers that write answers."""
