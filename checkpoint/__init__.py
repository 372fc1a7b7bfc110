"""Reads Hugging Face model directories: tokenizer, chat templates, lengths; for routers and
workers."""
