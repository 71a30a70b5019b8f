"""Write the report of a run, finished or not.

python scripts/report.py miniature                        (a name under runs/, or a folder)
python scripts/report.py miniature --png docs/gains.png   (also the accuracy picture)
python scripts/report.py miniature-budget --budgets-png docs/thinking-budget.png
python scripts/report.py miniature-budget --budgets-table budgets.md   (its figures, in Markdown)

Exit codes: 0 done, 2 the user's mistake.
"""

import argparse
import sys
from pathlib import Path

try:
    from workbench.command import command
    from workbench.errors import UserError
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a run's name under runs/, or its folder")
    parser.add_argument("--png", metavar="FILE", help="also save the accuracy picture")
    parser.add_argument("--budgets-png", metavar="FILE", help="also save the budget curves")
    parser.add_argument("--budgets-table", metavar="FILE", help="also save their figures")


def run(args: argparse.Namespace) -> int:
    """Write, and print where it is."""
    from reports.picture import FORMATS, save_accuracy, save_budgets

    for path in filter(None, (args.png, args.budgets_png)):
        if Path(path).suffix.lower() not in FORMATS:
            raise UserError(
                f"{path!r} is not a picture that can be written; end it in {', '.join(FORMATS)}"
            )
    from reports.read import run_folder

    root = run_folder(args.run)
    from reports import read_run, write_report
    from reports.budgets import budget_markdown

    print(write_report(root))
    if args.png:
        save_accuracy(root, Path(args.png))
        print(f"picture: {args.png}")
    if args.budgets_png:
        save_budgets(root, Path(args.budgets_png))
        print(f"picture: {args.budgets_png}")
    if args.budgets_table:
        Path(args.budgets_table).write_text(budget_markdown(read_run(root)), encoding="utf-8")
        print(f"table: {args.budgets_table}")
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
