"""What is read of conversations, and what servers and users' files say."""

from tests.mutations.mutation import Mutation

_MESSAGES = ("tests/unit/data_mix/test_messages.py",)
_SERVED = ("tests/unit/evals/test_served.py",)
_OWN_FILES = ("tests/unit/evals/test_custom_files.py",)

MUTATIONS = (
    Mutation(
        "our format in place of a checkpoint's template",
        "workbench/chat/tokens.py",
        "ours = not template or template == t.chat_template()",
        "ours = True",
        "a released model is asked in another prompt than it was trained on",
        (
            "tests/unit/workbench/test_chat_custom_templates.py",
            "tests/unit/workbench/test_chat_foreign.py",
        ),
    ),
    Mutation(
        "blank arguments are no call",
        "workbench/chat/template.py",
        "if value is None or (isinstance(value, str) and not value.strip()):",
        "if value is None:",
        'a call with "arguments": "" ends the run',
        ("tests/unit/workbench/test_chat_custom_templates.py",),
    ),
    Mutation(
        "replies of weight 0 are trained on",
        "data_mix/messages.py",
        'if reply.get("weight") == 0:',
        'if reply.get("weight") == -1:',
        "what the data leaves out is learnt",
        _MESSAGES,
    ),
    Mutation(
        "a trace that never closes is an answer",
        "data_mix/messages.py",
        "if content.lstrip().startswith(OPEN) and CLOSE not in content:",
        "if False:",
        "a cut trace is trained as an answer",
        _MESSAGES,
    ),
    Mutation(
        "unknown keys of a message are ignored",
        "data_mix/messages.py",
        "    if unknown:\n",
        "    if False:\n",
        "a trace under another name is lost without a word",
        _MESSAGES,
    ),
    Mutation(
        "Parquet's padding is data",
        "data_mix/messages.py",
        "for k, v in value.items() if v is not None}",
        "for k, v in value.items()}",
        "right calls score 0 beside another tool's arguments",
        _MESSAGES,
    ),
    Mutation(
        "a budget that nobody kept is kept",
        "budget/client.py",
        'raise Unkept(f"thinking budget not kept: {found:,} tokens of {allowed:,} allowed")',
        "pass",
        "a curve has points of budgets that the server ignored",
        _SERVED,
    ),
    Mutation(
        "a body without a choice is a reply",
        "engine/endpoint.py",
        'raise _Unreadable(_said_error(value) or "the server returned no choice")',
        'return Said("stop")',
        "a server's error page is an empty answer, a 0",
        ("tests/unit/workbench/test_endpoint_client.py",),
    ),
    Mutation(
        "a served model is its address",
        "evals/endpoint.py",
        "known = [self._served.entry, self._served.replies]",
        "known = list[str]()",
        "another checkpoint under the same name keeps the old scores",
        _SERVED,
    ),
    Mutation(
        "a null answer is a text",
        "evals/custom_files.py",
        'raise ValueError("give a text or a number")',
        'return "None"',
        "a question without an answer is scored against the word None",
        _OWN_FILES,
    ),
    Mutation(
        "a trace that nobody wanted is a result without one",
        "evals/endpoint.py",
        'if not prompt["thinking"] and (why := thought_anyway(said)):',
        "if False:",
        "a model that cannot be switched off is written as @0",
        ("tests/unit/evals/test_models_section.py",),
    ),
    Mutation(
        "a server that is asked too often uses up the retries",
        "engine/patience.py",
        "if often and self._patience_s:",
        "if False:",
        "a rate limit fails samples of a sweep",
        ("tests/unit/engine/test_patience.py",),
    ),
    Mutation(
        "a changed rule leaves old verdicts",
        "evals/samples.py",
        "code |= {kind: source_digest(kind) for kind in own}",
        "code |= dict[str, Any]()",
        "a check of the user's own that was mended does not judge anew",
        ("tests/unit/evals/test_custom_questions.py",),
    ),
)
