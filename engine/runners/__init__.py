"""Runners compute a step's slices: by torch on a device, or by arithmetic without a model."""
