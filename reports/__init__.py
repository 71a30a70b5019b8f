"""The pages of a run: each one HTML file that needs no network."""

from reports.read import read_run
from reports.write import write_pages, write_report

__all__ = ["read_run", "write_pages", "write_report"]
