"""Write the reference part of docs/recipes.md from the recipe's schema.

python scripts/recipes_doc.py
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
from reports.recipe_doc import MARK, recipe_reference

if __name__ == "__main__":
    page = ROOT / "docs" / "recipes.md"
    by_hand, _, _ = page.read_text(encoding="utf-8").partition(MARK)
    page.write_text(by_hand + recipe_reference(), encoding="utf-8")
    print("docs/recipes.md")
