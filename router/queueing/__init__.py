"""Admission: which requests are placed next, and which wait or are refused."""
