"""Chat with a served model on the terminal.

anneal chat http://127.0.0.1:8000/v1#NAME
anneal chat http://127.0.0.1:8000/v1#NAME --budget 256 --system "Be brief."

An empty line or Ctrl-D ends it; /new begins anew. Traces are shown in brackets.
"""

import argparse
import sys

try:
    from workbench.command import command
    from workbench.errors import UserError
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("address", metavar="ADDRESS", help="http://host:port/v1#model")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--budget", type=int, metavar="N", help="most tokens of a trace; 0: no reasoning"
    )
    parser.add_argument("--max-tokens", type=int, default=2048, metavar="N", help="default: 2048")
    parser.add_argument("--temperature", type=float, default=0.6, metavar="T", help="default: 0.6")


def run(args: argparse.Namespace) -> int:
    """Ask and answer until the end."""
    from engine.protocol import Sampling
    from evals.endpoint import EndpointResponder
    from evals.responder import Ask
    from workbench.chat import parse
    from workbench.conversation import Conversation

    if args.budget is not None and args.budget < 0:
        raise UserError(f"--budget {args.budget}: give a number of tokens, 0 or more")
    sampling = Sampling(
        args.max_tokens,
        temperature=args.temperature,
        thinking_budget=args.budget or None,
        logprobs=False,
    )
    responder = EndpointResponder(args.address)
    responder.must_answer()
    first = [{"role": "system", "content": args.system}] if args.system else []
    messages, turn = list(first), 0
    while (said := _line("> ")).strip():
        if said.strip() == "/new":
            messages = list(first)
            continue
        messages.append({"role": "user", "content": said})
        prompt = responder.prepare(Conversation("chat", "", messages), thinking=args.budget != 0)
        turn += 1
        ((_, done),) = responder.stream([Ask(prompt, sampling, turn)])
        if done.finish_reason == "error":
            messages.pop()
            print(f"[no reply: {done.error}]", flush=True)
            continue
        reply = parse(
            done.text, thinking=responder.format.thought(done.text, asked=args.budget != 0)
        )
        if reply.thinking.strip():
            print(f"[{reply.thinking.strip()}]")
        print(
            reply.answer.strip() + ("  [cut]" if done.finish_reason == "length" else ""), flush=True
        )
        messages.append({"role": "assistant", "content": reply.answer})
    responder.close()
    return 0


def _line(mark: str) -> str:
    try:
        return input(mark if sys.stdin.isatty() else "")
    except EOFError:
        return ""


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
