"""OpenAI's bodies: what requests may say, and how answers are told."""
