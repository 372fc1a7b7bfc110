"""The next token of each sequence, chosen from its logits as its request asked."""
