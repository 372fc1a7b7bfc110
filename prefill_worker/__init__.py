"""The first attempt: policy and process of the workers that read prompts."""
