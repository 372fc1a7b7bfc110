"""A checkpoint directory turned into a decoder: configuration, weights, forward pass."""
