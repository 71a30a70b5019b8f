"""What a plan says that training takes, against what it takes."""

import re
import subprocess
import sys

from tests import tiny


def test_the_planned_peak_of_three_sizes_is_the_measured_resident_memory_to_a_tenth() -> None:
    """Two hybrids of 25M and 101M parameters and a Llama of 81M, each in a process of its own [derived]."""
    done = subprocess.run(
        [sys.executable, "benchmarks/plan_memory.py"],
        cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=tiny.PATIENCE_S,
    )  # fmt: skip
    off = [float(share) for share in re.findall(r"([+-][\d.]+)%$", done.stdout, re.MULTILINE)]
    assert len(off) == 3, done.stdout + done.stderr
    assert max(map(abs, off)) <= 10, done.stdout
    assert done.returncode == 0
