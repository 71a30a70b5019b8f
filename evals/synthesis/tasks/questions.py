"""New problems after given ones, answered by a vote: STEM problems, and fundamental reasoning.

Paper 3.5: 88.6k seeds x 3 rounds x 4 models x 3 prompts, and the same models answer; FR-SFT writes after
LSAT, LogiQA and AQuA-RAT and keeps the majority's answers. The texts of the prompts are ours.
"""

from collections.abc import Sequence

from data_mix.gates import alike, repeats
from evals.synthesis import parsing
from evals.synthesis.config import FrSftTask, StemTask, VoteConfig
from evals.synthesis.seeds import Seed, spoken, talk
from evals.synthesis.votes import Ballot, vote
from evals.synthesis.work import GateRefusal, Outcome, Piece, Wanted, Work, ask, user, whole
from workbench.conversation import CheckSpec

_HOW = {
    "similar": "Write one new problem of the same topic and difficulty, with other numbers and another setting.",
    "harder": "Write one new problem of the same topic that is clearly harder: it needs one more step or idea.",
    "varied": "Write one new problem that uses the same idea in quite another setting or form.",
    "reasoning": "Write one new problem that asks for the same kind of reasoning about quite another matter.",
}
_WRITE = """Here is a problem:

{seed}

{how} It must have one right answer and say all that is needed to find it.{form}
Write the problem alone, after the word "Problem:". Do not solve it."""
_FORM = {
    "math": " The answer must be one number or one short expression.",
    "choice": " Give {count} options on lines of their own, labelled {letters}; just one is right.",
}
_SOLVE = {
    "math": "{problem}\n\nThink step by step, and write the final answer in \\boxed{{}}.",
    "choice": '{problem}\n\nThink step by step, and end with a line "Answer: X", where X is the letter.',
}
_LEAST, _TOO_ALIKE = 20, 0.9
_LETTERS = "ABCDEFGHIJ"


def pieces(task: StemTask | FrSftTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A chain of rounds for every model and prompt."""
    ways = task.prompts if isinstance(task, StemTask) else ("reasoning",)
    return [
        Piece(
            id=f"{seed.id}/{model}/{way}",
            rows=task.rounds,
            model=model,
            work=_rounds(task, seed, way, f"{seed.id}/{model}/{way}", model),
        )
        for model in models
        for way in ways
    ]


def _rounds(task: StemTask | FrSftTask, seed: Seed, way: str, name: str, model: str) -> Work:
    """Write, answer, vote; then the same after the new problem. A round that makes no problem ends the
    chain, and its later rounds are removed with it."""
    vote_of, outcomes = task.answers, list[Outcome]()
    after = seed.text
    for number in range(1, task.rounds + 1):
        (written,) = yield [ask(_prompt(after, way, task))]
        problem = _read(whole(written[0]).answer, after, task)
        if isinstance(problem, GateRefusal):
            outcomes.append(problem)
            break
        solve = _SOLVE[vote_of.check].format(problem=problem)
        (answers,) = yield [Wanted(user(solve), who="solver", samples=vote_of.samples)]
        options = {"num_choices": task.choices} if vote_of.check == "choice" else {}
        found = vote(answers, vote_of.check, options, at_least=vote_of.at_least)
        if isinstance(found, str):
            outcomes.append(GateRefusal(f"vote: {found}", problem))
        else:
            outcomes.append(
                _row(found, vote_of, problem, solve, f"{name}/{number}", options, seed, model)
            )
        after = problem
    rest = task.rounds - len(outcomes)
    return outcomes + [GateRefusal("the round before it made no problem")] * rest


def _prompt(seed: str, way: str, task: StemTask | FrSftTask) -> str:
    count = task.choices
    form = _FORM[task.answers.check].format(count=count, letters=", ".join(_LETTERS[:count]))
    return _WRITE.format(seed=seed, how=_HOW[way], form=form)


def _read(text: str, seed: str, task: StemTask | FrSftTask) -> str | GateRefusal:
    problem = parsing.problem(text)
    if problem is None:
        return GateRefusal("no problem alone", text[:300])
    if len(problem) < _LEAST or repeats(problem):
        return GateRefusal("no sentence", problem[:300])
    if task.answers.check == "choice":
        found = parsing.options(problem, task.choices)
        if found is None:
            return GateRefusal("options not as asked", problem[:300])
        problem = parsing.with_options(*found)
    if alike(problem, seed) >= _TOO_ALIKE:
        return GateRefusal("the seed again", problem[:300])
    return problem


def _row(
    found: Ballot, config: VoteConfig, problem: str, asked: str, name: str,
    options: dict[str, int], seed: Seed, model: str,
) -> Outcome:  # fmt: skip
    best = found.replies[0]
    return talk(
        name, "stem" if config.check == "math" else "reasoning",
        [*user(asked), spoken(best.answer, best.thinking)],
        check=CheckSpec(config.check, found.answer, options), problem=problem,
        seed=seed.id, writer=model, votes=len(found.replies), voters=found.votes,
    )  # fmt: skip
