"""The first leg: policy and process of the workers that read prompts."""
