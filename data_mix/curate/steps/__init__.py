"""The steps of `curate`, a module an idea."""
