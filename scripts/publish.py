"""Publish a stage's model on the hub, with a card from the run: what would go, or with --push, goes.

anneal publish miniature grpo --repo you/miniature-grpo
anneal publish miniature grpo --repo you/miniature-grpo --push --private

The card says how the model was made and what was measured, with intervals; a README.md of yours in the
model's folder stays yours. The token is the hub's own (hf auth login, or HF_TOKEN).
"""

import argparse
import sys
import tempfile
from pathlib import Path

try:
    from workbench.command import command
    from workbench.errors import UserError, one_line
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

_NEVER = ("optimizer", "checkpoint", "events.out", ".env")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a run's name under runs/, or its folder")
    parser.add_argument("stage", metavar="STAGE", help="the stage whose model goes")
    parser.add_argument(
        "--repo", required=True, metavar="ORG/NAME", help="where it goes on the hub"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="its LoRA adapter, not the merged model"
    )
    parser.add_argument(
        "--form", metavar="FORM", help="what `anneal export` wrote of it, e.g. int8 or gguf-q8_0"
    )
    parser.add_argument("--licence", default="other", metavar="ID", help="as the hub names it")
    parser.add_argument("--private", action="store_true", help="a repository that only you see")
    parser.add_argument("--push", action="store_true", help="send it; without, only show it")


def run(args: argparse.Namespace) -> int:
    """Show, and with --push send."""
    from reports.model_card import card, published_stage
    from reports.read import read_run, run_folder

    if args.repo.count("/") != 1 or not all(args.repo.split("/")):
        raise UserError(f"--repo {args.repo!r}: write it as ORG/NAME")
    facts = read_run(run_folder(args.run))
    stage = published_stage(facts, args.stage)
    folder = _folder(args, facts.root / args.stage)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not _is_ours_alone(p)]
    text = card(facts, stage, title=args.repo.partition("/")[2], licence=args.licence)
    for path in files:
        print(f"  {path.stat().st_size / 2**20:10.2f} MB  {path.relative_to(folder)}")
    own = (folder / "README.md").is_file()
    if not own:
        print(f"  {len(text.encode()) / 2**20:10.2f} MB  README.md (the card below)\n\n{text}")
    if not args.push:
        print(f"nothing was sent; --push sends this to {args.repo}")
        return 0
    _push(args, folder, files, "" if own else text)
    print(f"published: https://huggingface.co/{args.repo}")
    return 0


def _folder(args: argparse.Namespace, stage: Path) -> Path:
    """What goes: the model, its adapter, or another form of it. Raises: UserError."""
    if args.form and args.adapter:
        raise UserError("--form and --adapter are two things to publish; give one")
    if args.form:
        folder = stage / "exports" / args.form
        why = f"has no form {args.form!r}; make it: anneal export {stage} {args.form}"
    else:
        folder = stage / ("adapter" if args.adapter else "model")
        why = "has no adapter; only an sft stage with lora leaves one"
    if not folder.is_dir():
        raise UserError(f"stage {args.stage!r} {why}")
    return folder


def _is_ours_alone(path: Path) -> bool:
    """State of training, which is of no use to anyone else, and what may hold secrets."""
    return path.name.startswith(".") or any(word in path.name for word in _NEVER)


def _push(args: argparse.Namespace, folder: Path, files: list[Path], text: str) -> None:
    from huggingface_hub import HfApi

    from workbench.hub import must_answer

    must_answer(f"publishing to {args.repo!r}", "push from a machine that reaches it")
    api = HfApi()
    try:
        api.create_repo(args.repo, private=args.private, exist_ok=True)
        names = [str(path.relative_to(folder)) for path in files]
        api.upload_folder(repo_id=args.repo, folder_path=folder, allow_patterns=names)
        if text:
            with tempfile.TemporaryDirectory() as place:
                readme = Path(place) / "README.md"
                readme.write_text(text, encoding="utf-8")
                api.upload_file(path_or_fileobj=readme, path_in_repo="README.md", repo_id=args.repo)
    except (OSError, ValueError) as error:  # the hub's own errors are among them
        raise UserError(
            f"{args.repo}: the hub refused ({one_line(error)[:200]}); log in with `hf auth login`, or set "
            "HF_TOKEN, with the right to write there"
        ) from None


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
