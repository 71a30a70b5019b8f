"""Anneal from Python: the same runs, sweeps and checks as on the command line, with the same errors.

    import anneal
    anneal.run("recipes/smoke.yaml", set=["seed=3"])                  # -> the run's folder
    anneal.sweep(["ours=runs/smoke/grpo", "http://host:8000/v1#name"], ["mini-math"], limit=20)
    anneal.check("math", "The answer is 49.", "49")                   # -> Verdict(value=1.0, ...)

A mistake raises `anneal.UserError`, whose text is the line that the command prints; a run that fails or is
stopped raises `anneal.RunFailed`.
"""

from reward import Verdict, check
from scripts.api import RunFailed, plan, run, sweep
from workbench.errors import UserError

__all__ = ["RunFailed", "UserError", "Verdict", "check", "plan", "run", "sweep"]
