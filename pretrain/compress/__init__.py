"""Compression of a hybrid in the manner of Minitron: importance, prune, search, distill."""
