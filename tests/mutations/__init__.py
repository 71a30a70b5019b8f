"""Important lines, broken one at a time: `python -m tests.mutations` shows which test notices each."""
