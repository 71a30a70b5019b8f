"""BFCL's multi-turn tasks over its eight simulated APIs: the tasks, the world, the executor."""
