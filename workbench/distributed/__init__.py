"""Data-parallel training in several processes, through Ray Train."""
