"""The pages of a sweep: a table of models and benchmarks, and a page of samples behind each cell."""

from evals.report.pages import write_pages

__all__ = ["write_pages"]
