"""Merging: linear interpolation of two checkpoints, and the sweep that picks its weight."""

from rl.merge.linear import interpolate

__all__ = ["interpolate"]
