"""One line, and exit code 2, where a script was started by a Python that has no Anneal.

Imports nothing that is not Python's own, and is imported by scripts alone, from their own folder.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("workbench") is None:
    root = Path(__file__).resolve().parents[1]
    first = "use" if (root / ".venv/bin/python").exists() else "run `make setup`, then use"
    sys.stderr.write(
        f"error: this needs a different Python from {sys.executable}: Anneal is not installed in it; "
        f"{first} .venv/bin/python\n"
    )
    raise SystemExit(2)
