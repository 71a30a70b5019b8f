"""Iterative on-policy DPO on tool environments."""
