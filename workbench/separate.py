"""Packages that cannot live among the others: generic top-level names, or another Python declared.

`scripts/setup.sh evals` installs them into a folder of the environment. Their files are read, or loaded
one by one; that folder is never on the module path.
"""

import sys
from pathlib import Path

_FOLDER = "evals-data"
INSTALL = "run scripts/setup.sh evals"


def separate_folder(package: str) -> Path | None:
    """The folder of a package installed apart, or None where it is not."""
    folder = Path(sys.prefix) / _FOLDER / package
    return folder if folder.is_dir() else None
