"""Environments of the user's own: a class in a file, played in processes that can be stopped."""
