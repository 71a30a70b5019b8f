"""Benchmarks, statistics and sweeps."""
