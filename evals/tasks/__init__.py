"""Benchmark families."""
