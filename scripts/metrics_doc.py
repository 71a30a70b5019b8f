"""Write docs/metrics.md from the metrics declared in workbench/tracking.py.

python scripts/metrics_doc.py
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
from workbench.tracking import metrics_markdown

if __name__ == "__main__":
    (ROOT / "docs" / "metrics.md").write_text(metrics_markdown(), encoding="utf-8")
    print("docs/metrics.md")
