"""Environments of the user's own, episodes over turns, and the processes that they are played in."""

from tests.mutations.mutation import Mutation

_OWN = ("tests/unit/environments/test_custom.py",)
_WORKER = ("tests/unit/environments/test_custom_worker.py",)

MUTATIONS = (
    Mutation(
        "a tool that raises has answered",
        "environments/custom/worker.py",
        "        if type(error) is not ValueError:\n",
        "        if False:\n",
        "a fault of an environment (unreadable JSON, say) is played on with",
        _WORKER,
    ),
    Mutation(
        "a stopped episode has an error's status",
        "environments/custom/world.py",
        'raise EnvironmentFailed(timed_out(f"{function}: {done.reason}"))',
        'raise EnvironmentFailed(failed(f"{function}: {done.reason}"))',
        "an episode that hung is tried again, and hangs again",
        _OWN,
    ),
    Mutation(
        "an episode's process stays",
        "environments/custom/world.py",
        "        weakref.finalize(self, session.close)\n",
        "",
        "thousands of processes are left of one training",
        _OWN,
    ),
    Mutation(
        "turns' rewards do not count",
        "environments/custom/worker.py",
        'whole = math.fsum([found["value"], *play.rewards])',
        'whole = math.fsum([found["value"]])',
        "what an environment pays turn by turn is lost where it also verifies",
        _WORKER,
    ),
    Mutation(
        "what was earned before a turn is credited to it",
        "rl/sample.py",
        "out.append(None if value is None else value - gone)",
        "out.append(value)",
        "with credit: to_go every turn is trained on the whole episode",
        ("tests/unit/rl/test_turn_credit.py",),
    ),
    Mutation(
        "all turns carry the first one's advantage",
        "rl/update.py",
        "advantage += [value or 0.0] * size",
        "advantage += [rollout.advantage or 0.0] * size",
        "turns that are credited apart are trained alike",
        ("tests/unit/rl/test_turn_credit.py",),
    ),
    Mutation(
        "a kept turn is tokenized again",
        "workbench/chat/continuing.py",
        "    return [*before, *reply, *since]\n",
        "    return [*before, *tokenizer.encode(tokenizer.decode(reply), add_special_tokens=False), *since]\n",
        "the policy is trained on tokens that it did not sample",
        ("tests/unit/environments/test_kept_prefix.py",),
    ),
    Mutation(
        "a wrong type of an argument is let through",
        "environments/custom/tools.py",
        "json.dumps(dict(arguments)), strict=True)",
        "json.dumps(dict(arguments)), strict=False)",
        "a model is paid for calls that no API would take",
        _WORKER,
    ),
)
