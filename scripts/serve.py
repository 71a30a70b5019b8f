"""Serve a model: vLLM's OpenAI-compatible server with our thinking budgets in it.

anneal serve runs/miniature/grpo                          (a stage's folder, a checkpoint folder or a hub id)
anneal serve Qwen/Qwen3-0.6B --port 8001 --vllm=--max-model-len=4096

Then `anneal chat http://127.0.0.1:8000/v1#NAME`, or a sweep over that address with --budgets.
"""

import argparse
import os
import sys
from pathlib import Path

try:
    from workbench.command import command
    from workbench.errors import UserError
    from workbench.hub import folder_of
    from workbench.placement import local_cards
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

_ROOT = Path(__file__).resolve().parents[1]
_CPU_CACHE_BYTES = 2**30
_PROCESSOR = "budget.processor:ThinkingBudgetProcessor"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="a stage's or checkpoint's folder, or a hub id"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="under which it answers; default: its folder's"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--dry-run", action="store_true", help="print vLLM's command line")
    parser.add_argument(
        "--vllm",
        action="append",
        default=[],
        metavar="OPTION",
        help="vLLM's own: --vllm=--max-model-len=4096",
    )


def run(args: argparse.Namespace) -> int:
    """Become the server."""
    line, name = server_command(args.model, args.name, args.host, args.port, args.vllm)
    print(" ".join(line))
    print(f"http://{args.host}:{args.port}/v1#{name}", flush=True)
    if args.dry_run:
        return 0
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed here; run `make setup`")
    os.execvpe(line[0], line, server_environment())
    return 0


def server_command(
    model: str, name: str | None, host: str, port: int, more: list[str]
) -> tuple[list[str], str]:
    """vLLM's command line and the name that the model answers to. Raises: UserError."""
    place, own = _placed(model)
    named = name or own
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", place]
    line += ["--served-model-name", named, "--host", host, "--port", str(port)]
    line += ["--logits-processors", _PROCESSOR]
    # Hybrids fail in vLLM's prefix cache on a CPU (docs/scale.md); on a card it is the user's choice.
    line += ["--no-enable-prefix-caching"]
    if not local_cards():
        # vLLM would take nine tenths of the machine's memory, and refuse where others use some of it.
        line += ["--enforce-eager", "--kv-cache-memory-bytes", str(_CPU_CACHE_BYTES)]
        # A seeded request whose prompt is read in two parts ends the engine ("CPU Generator does not use offset").
        line += ["--no-enable-chunked-prefill"]
    if _calls_tools(Path(place)):
        line += ["--enable-auto-tool-choice", "--tool-call-parser", "anneal"]
        line += ["--tool-parser-plugin", str(_ROOT / "engine" / "tool_parser.py")]
    return [*line, *more], named


def _calls_tools(folder: Path) -> bool:
    """Whether the checkpoint's own template has our format of tool calls; others have parsers of vLLM's."""
    from workbench.chat.template import CALL_OPEN

    files = (folder / "chat_template.jinja", folder / "tokenizer_config.json")
    return any(CALL_OPEN in f.read_text(encoding="utf-8") for f in files if f.is_file())


def server_environment() -> dict[str, str]:
    """What the server's process needs: our package on its path, one thread for each library."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    return {"VLLM_NO_USAGE_STATS": "1", **os.environ, "PYTHONPATH": path}


def _placed(model: str) -> tuple[str, str]:
    path = Path(model).expanduser()
    if (folder := folder_of(model)) is not None:
        return str(folder), path.resolve().name
    if not path.exists() and model.count("/") == 1 and all(model.split("/")):
        return model, model.partition("/")[2]
    raise UserError(
        f"model {model!r} is not a stage's folder, no checkpoint folder (with config.json) and no hub id ORG/NAME"
    )


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
