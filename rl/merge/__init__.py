"""Merging: linear interpolation of two checkpoints, and the sweep that picks its weight."""
