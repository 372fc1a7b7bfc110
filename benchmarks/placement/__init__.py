"""Placement and admission on recorded traffic, in a simulated cluster."""
