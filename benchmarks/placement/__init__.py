"""Placement and admission on recorded traffic, with the workers' engines on a virtual clock."""
