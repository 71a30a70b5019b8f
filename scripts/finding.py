"""One line of what `scripts/doctor.py` found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the examination. needed: without it Anneal does not run at all."""

    what: str
    found: str
    works: bool = True
    needed: bool = False
    mend: str = ""
