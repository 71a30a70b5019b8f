"""What is sampled for a policy: prompts, replies, forced tokens, and what is measured before and after."""

from tests.mutations.mutation import Mutation

_FORCED = "Tokens that a thinking budget forces are trained on as the policy's"
_LOOP = ("tests/unit/rl/test_grpo_loop.py",)
_PREFETCH = ("tests/unit/rl/test_prefetch.py",)
_CONTROL = ("tests/unit/budget/test_control.py",)

MUTATIONS = (
    Mutation(
        "before and after swapped in the lift",
        "workbench/statistics.py",
        "        paired_interval(old, new, names),\n",
        "        paired_interval(new, old, names),\n",
        "the headline number has the wrong sign",
        ("tests/unit/workbench/test_statistics.py", "tests/unit/rl/test_dpo.py"),
    ),
    Mutation(
        "held-out before and after swapped in GRPO",
        "rl/stage.py",
        'for when in ("before", "after"))',
        'for when in ("after", "before"))',
        "the headline number has the wrong sign",
        ("tests/unit/rl/test_grpo_gain.py",),
    ),
    Mutation(
        "the replay forces nothing",
        "budget/control.py",
        "mask.append(state.forced is not None)",
        "mask.append(False)",
        "no forced token is marked",
        ("tests/unit/rl/test_forced_tokens.py", *_CONTROL),
        _FORCED,
    ),
    Mutation(
        "the budget ends one token late",
        "budget/control.py",
        "newline = over >= 0 and token in self.rule.newline_ids",
        "newline = over > 0 and token in self.rule.newline_ids",
        "a newline at the budget itself does not close the trace",
        _CONTROL,
    ),
    Mutation(
        "the grace has no end",
        "budget/control.py",
        "return newline or over >= self.rule.grace or self.rule.budget == 0",
        "return newline or self.rule.budget == 0",
        "a trace without newlines is never closed",
        _CONTROL,
    ),
    Mutation(
        "sampled ahead beyond the bound",
        "rl/prefetch.py",
        "step <= self._version + self.max_staleness\n",
        "step <= self._version + self.max_staleness + 1\n",
        "tokens are older than max_staleness allows",
        _PREFETCH,
    ),
    Mutation(
        "batches out of order",
        "rl/prefetch.py",
        "sampled = self._ready.popleft()",
        "sampled = self._ready.pop()",
        "prompts are trained on in the order in which replies ended",
        _PREFETCH,
    ),
    Mutation(
        "too old tokens are taken",
        "rl/prefetch.py",
        "wrong = [v for v in done.versions if not step - max_staleness <= v <= step]",
        "wrong = [v for v in done.versions if not v <= step]",
        "a token of any age is trained on",
        _PREFETCH,
    ),
    Mutation(
        "every pass in one order",
        "rl/sample.py",
        "self._conversations[self._order(i // size)[i % size]]",
        "self._conversations[self._order(0)[i % size]]",
        "prompts always meet the same neighbours",
        ("tests/unit/rl/test_prompts.py",),
    ),
    Mutation(
        "each step samples with one seed",
        "rl/sample.py",
        'seed=sample_seed(seed, "grpo", position)',
        'seed=sample_seed(seed, "grpo", 0)',
        "a prompt seen again is answered by the same draws",
        ("tests/unit/rl/test_prompts.py",),
    ),
    Mutation(
        "any share of failures passes",
        "rl/metrics.py",
        "if failed > max_failed_share:",
        "if failed > 1:",
        "a run trains on although its checkers are broken",
        _LOOP,
    ),
    Mutation(
        "groups that teach nothing are kept",
        "rl/sample.py",
        "(groups if keep_all or is_mixed(group) else dropped).append(group)",
        "groups.append(group)",
        "dynamic sampling does nothing",
        ("tests/unit/rl/test_grpo_loop.py",),
    ),
    Mutation(
        "cut replies are trained on",
        "rl/sample.py",
        "advantage=None if masked else advantage,",
        "advantage=advantage,",
        "mask_truncated does nothing",
        (
            "tests/unit/rl/test_reward_faults.py::test_a_masked_reply_is_in_the_baseline_and_has_no_advantage",
        ),
    ),
    Mutation(
        "a generation that failed has reward 0",
        "environments/rollout.py",
        'self.verdict = failed(completion.error or "the engine failed")',
        'self.verdict = Verdict(0.0, "ok", {})',
        "a dead engine teaches the policy that its replies are bad",
        ("tests/unit/rl/test_rollout_faults.py",),
        "A checker that crashes or hangs gives reward 0",
    ),
    Mutation(
        "held-out by the training's own options",
        "rl/stage.py",
        "sampling=replace(sampler.sampling, n=1), reward_options={})",
        "sampling=replace(sampler.sampling, n=1))",
        "the held-out reward is shaped as the training's is",
        ("tests/unit/rl/test_rollout_faults.py",),
    ),
    Mutation(
        "RL reads one family's tool calls",
        "workbench/chat/reply_format.py",
        'normal = text if self.calls == "nano-v2" else self.normal(text, asked=opened)',
        "normal = text",
        "a Qwen policy calls tools as its template says and is told that it called none",
        (
            "tests/unit/environments/test_rollout.py::test_calls_are_read_as_the_models_own_template_writes_them",
        ),
    ),
)
