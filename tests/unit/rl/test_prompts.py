"""Which prompts GRPO takes, in what order, and with which draws."""

from pathlib import Path

from rl.sample import Pool
from tests.unit.rl.test_grpo_loop import grpo
from workbench.conversation import Conversation

QUESTIONS = [Conversation(str(n), "x", [{"role": "user", "content": "?"}]) for n in range(10)]


def ids(pool: Pool, position: int, count: int) -> list[str]:
    return [question.id for question in pool.take(position, count)]


def test_every_pass_holds_each_prompt_once_in_another_order() -> None:
    pool = Pool(QUESTIONS, seed=1)
    passes = [ids(pool, 10 * n, 10) for n in range(4)]
    assert all(sorted(one) == sorted(q.id for q in QUESTIONS) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert ids(pool, 7, 6) == [*passes[0][7:], *passes[1][:3]]


def test_a_resume_needs_the_number_alone() -> None:
    """What was taken before changes nothing."""
    assert ids(Pool(QUESTIONS, seed=1), 23, 9) == ids(Pool(QUESTIONS, seed=1), 20, 12)[3:]
    assert ids(Pool(QUESTIONS, seed=2), 0, 10) != ids(Pool(QUESTIONS, seed=1), 0, 10)


def test_each_step_samples_with_a_seed_of_its_own(tmp_path: Path) -> None:
    """A prompt that comes again must not get the same draws again."""
    trainer = grpo(lambda n: [1.0, 0.0])
    seeds: list[int] = []
    plain = trainer.sampler.roll_out

    def watched(questions: list[Conversation], *, seed: int) -> object:
        seeds.append(seed)
        return plain(questions, seed=seed)

    trainer.sampler.roll_out = watched  # type: ignore[assignment,method-assign]
    batches = [trainer.collect(0), trainer.collect(4), trainer.collect(4)]
    assert [batch.position for batch in batches] == [4, 8, 8]
    assert seeds[0] != seeds[1] == seeds[2]
