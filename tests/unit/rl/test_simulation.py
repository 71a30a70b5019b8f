"""The simulated GRPO run: conservation, cases that can be worked out by hand, fits, and refusals."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import cost
from model.estimate import HARDWARE, price
from model.presets import shape
from model.serving import Assumed, Load, served_at
from rl.simulation.assumed import Loads, decoding, timing
from rl.simulation.engine import SimulatedEngine
from rl.simulation.events import SimulationOutcome, simulate
from rl.simulation.fit import fit, iterations, least_squares, read_run
from rl.simulation.parts import (
    Asked,
    Decoding,
    Faults,
    Layout,
    Lengths,
    Plan,
    Timing,
    TrainerGroup,
)
from rl.simulation.rows import packed, update_s
from rl.simulation.splits import SplitQuestion, best, end_of_scaling, splits
from workbench.errors import UserError
from workbench.load import Beside, GenerationLoad, TrainingLoad

# Eight replies of 100 tokens behind prompts of 10; an iteration of eight takes 10 + 8 x 1 ms.
EQUAL = Lengths(mean=100, prompt=10)
PARTS = Timing(
    Decoding(step_s=0.010, sequence_s=0.001), TrainerGroup(token_s=1e-4), sync_s=0.5, other_s=0.1
)


ONE = Layout(engines=1, groups=1)


def run(staleness: int, layout: Layout = ONE, parts: Timing = PARTS) -> SimulationOutcome:
    return simulate(Plan(steps=8, prompts=4, group=2, staleness=staleness), layout, parts, EQUAL)


def test_in_turns_a_step_is_the_sum_of_its_parts() -> None:
    """[derived] 100 iterations x 18 ms + 880 tokens x 0.1 ms + 0.1 s + 0.5 s = 2.488 s; the engine works 1.8 s
    of it, the trainer 0.088 s."""
    found = run(0)
    assert found.step_s == pytest.approx(2.488)
    assert found.engine_idle == pytest.approx(1 - 1.8 / 2.488)
    assert found.trainers_idle == pytest.approx(1 - 0.088 / 2.488)
    assert found.staleness == 0


def test_two_engines_share_the_replies_and_prompts_and_checks_count() -> None:
    """[derived] four each: 100 x 14 ms; 40 tokens of prompts at 2 ms, and 0.3 s of checks behind them."""
    parts = Timing(Decoding(0.010, 0.001, prompt_s=0.002, score_s=0.3), TrainerGroup(0.0))
    assert run(0, Layout(2, 1), parts).step_s == pytest.approx(1.4 + 40 * 0.002 + 0.3)


def test_overlapped_the_slower_side_decides() -> None:
    """[derived] An engine that samples 1.8 s and stands still for each sync of 0.5 s: 2.3 s a step. A trainer of
    880 x 5 ms + 0.1 s + 0.5 s = 5.0 s waits for nothing. Tokens are at most one update old."""
    found = run(1)
    steady = [b.ended - a.ended for a, b in zip(found.steps, found.steps[1:], strict=False)]
    assert steady[2:-1] == pytest.approx([2.3] * len(steady[2:-1]))
    slow = run(1, parts=Timing(PARTS.decoding, TrainerGroup(5e-3), sync_s=0.5, other_s=0.1))
    steady = [b.ended - a.ended for a, b in zip(slow.steps, slow.steps[1:], strict=False)]
    assert steady == pytest.approx([5.0] * 7)
    assert [step.staleness for step in slow.steps[:2]] == [0, 1]
    assert all(step.staleness <= 1 for step in found.steps)


def test_a_busy_engine_is_told_between_two_polls() -> None:
    """[derived] The first sync comes 0.188 s into a sampling: it waits until 0.5 s."""
    parts = Timing(PARTS.decoding, PARTS.training, sync_s=0.5, other_s=0.1, poll_s=0.5)
    first = run(1, parts=parts).steps[0]
    assert first.ended == pytest.approx(1.8 + 0.5 + 0.5)


def test_seats_are_filled_as_they_get_free() -> None:
    """[derived] Two seats, replies of 10, 4 and 8: the third joins after four iterations and ends with the
    twelfth; six iterations of one after the tenth would be wrong."""
    engine = SimulatedEngine(Decoding(step_s=1.0), seats=2)
    engine.submit(0.0, enumerate([Asked(0, 10), Asked(0, 4), Asked(0, 8)]))
    ends = []
    while (when := engine.next_end()) is not None:
        ends += [(when, place) for place in engine.ended(when)]
    assert ends == [(4.0, 1), (10.0, 0), (12.0, 2)]
    assert engine.tokens == pytest.approx(22)


def test_rows_are_packed_in_order_and_dealt_longest_first() -> None:
    """[derived] rows of 70 + 20, 60 and 150 tokens; two groups: rounds of 150 and 60, or what gathering takes."""
    asked = [Asked(10, 60), Asked(10, 10), Asked(20, 40), Asked(50, 100)]
    assert packed(asked, 100) == [90, 60, 150]
    training = TrainerGroup(token_s=0.01, gather_s=0.7, fixed_s=2.0)
    assert update_s(asked, training, 2, 100) == pytest.approx(2.0 + 1.5 + 0.7)
    assert update_s(asked, training, 1, 100) == pytest.approx(2.0 + 1.5 + 0.9 + 0.7)


@pytest.mark.parametrize("seed", range(12))
def test_every_prompt_is_trained_on_once(seed: int) -> None:
    """Whatever the layout, the lengths and the cards that are lost."""
    draw = random.Random(seed)
    plan = Plan(
        steps=draw.randint(1, 7), prompts=draw.randint(1, 5), group=draw.randint(1, 4),
        staleness=draw.randint(0, 3), save_every=draw.choice([0, 1, 3]),
    )  # fmt: skip
    layout = Layout(draw.randint(1, 5), draw.randint(1, 3), seats=draw.randint(1, 6))
    parts = Timing(
        Decoding(0.01, 0.002, prompt_s=0.001),
        TrainerGroup(1e-3),
        sync_s=0.3,
        save_s=1.0,
        poll_s=0.5,
    )
    faults = Faults(per_card_hour=draw.choice([0, 20]), engine_s=2.0, trainers_s=3.0)
    lengths = Lengths(mean=60, spread=0.7, prompt=5, most=300, seed=seed)
    found = simulate(plan, layout, parts, lengths, faults=faults, seed=seed)
    trained = [prompt for step in found.steps for prompt in step.prompts]
    assert trained == list(range(plan.steps * plan.prompts))
    asked = [lengths.of(p, g).reply for p in trained for g in range(plan.group)]
    # What was lost, or sampled ahead, was sampled too.
    assert found.sampled_tokens >= sum(asked) - 1e-3
    if not found.lost:
        assert found.sampled_tokens == pytest.approx(sum(asked))
    assert all(0 <= step.staleness <= plan.staleness for step in found.steps)
    again = simulate(plan, layout, parts, lengths, faults=faults, seed=seed)
    assert again == found


def test_a_lost_engine_begins_its_replies_again() -> None:
    """[derived] After 1.0 of 1.8 s, back 5 s later: 1.0 + 5.0 + 1.8."""
    engine = SimulatedEngine(PARTS.decoding, seats=8)
    engine.submit(0.0, enumerate([Asked(10, 100)] * 8))
    engine.lose(1.0, 5.0)
    assert engine.next_end() == pytest.approx(7.8)
    assert engine.ended(7.8) == list(range(8))


def test_lost_trainers_go_back_to_the_newest_checkpoint() -> None:
    plan = Plan(steps=30, prompts=4, group=2, save_every=10)
    kept = simulate(plan, Layout(1, 1), PARTS, EQUAL)
    faults = Faults(per_card_hour=60, engine_s=0.0, trainers_s=20.0)
    lost = simulate(plan, Layout(1, 9), PARTS, EQUAL, faults=faults, seed=1)
    assert lost.lost > 0 and lost.total_s > kept.total_s + 20
    assert [step.step for step in lost.steps] == list(range(30))


def test_least_squares_have_no_part_below_nothing() -> None:
    rows = [[1.0, 10.0], [1.0, 20.0], [1.0, 40.0]]
    assert least_squares(rows, [25.0, 45.0, 85.0]) == pytest.approx([5.0, 2.0])
    falling = least_squares(rows, [40.0, 20.0, 10.0])
    assert min(falling) >= 0 and falling[1] == 0


def written(folder: Path, *, staleness: int = 0, group: int = 2, lengths: bool = True) -> Path:
    """A stage of 6 steps as its own files say: 0.5 s + 4 ms an iteration, 1 ms a token, 0.2 s + 0.1 ms a token."""
    draw = random.Random(group)
    config = {"kind": "grpo", "prompts_per_step": 4, "group_size": group, "max_staleness": staleness,
              "microbatch_tokens": 8192, "checkpoint_every_steps": 3,
              "engine": {"replicas": 1, "max_num_seqs": 256}}  # fmt: skip
    stage = folder / "grpo"
    stage.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"stages": {"grpo": config}}))
    wall, metrics, rollouts = 0.0, [], []
    for step in range(1, 7):
        asked = [Asked(20, draw.randint(10, 96)) for _ in range(4 * group)]
        tokens = sum(a.reply for a in asked)
        rollout = 4e-3 * max(a.reply for a in asked) + 1e-3 * tokens
        update = 0.2 + 1e-4 * (tokens + 20 * len(asked))
        took = rollout + update + 0.3 + 0.1
        wall += took + (0.7 if step == 4 else 0.0)  # behind the checkpoint of step 3
        line: dict[str, Any] = {
            "step": step,
            "wall_s": wall,
            "rollout_s": rollout,
            "update_s": update,
        }
        metrics.append(line | {"sync_s": 0.3, "step_s": took, "wait_s": rollout})
        rollouts += [
            {"step": step, "reply": ""}
            | ({"prompt_tokens": a.prompt, "reply_tokens": a.reply} if lengths else {})
            for a in asked
        ]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in metrics))
    (stage / "rollouts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rollouts))
    return stage


def test_a_fit_finds_the_parts_that_two_runs_were_made_of(tmp_path: Path) -> None:
    runs = [read_run(written(tmp_path / str(g), group=g)) for g in (2, 8)]
    parts = fit(runs)
    assert parts.decoding.step_s == pytest.approx(4e-3)
    assert parts.decoding.sequence_s == pytest.approx(1e-3)
    assert (parts.training.fixed_s, parts.training.token_s) == pytest.approx((0.2, 1e-4))
    assert (parts.sync_s, parts.other_s, parts.save_s) == pytest.approx((0.3, 0.1, 0.7))
    # And what they were made of is what comes out again.
    run = runs[1]
    replies = run.steps[0].asked
    assert iterations(replies, 256) == max(asked.reply for asked in replies)
    plan = Plan(steps=20, prompts=4, group=8, save_every=3)
    found = simulate(plan, Layout(1, 1), parts, Lengths([a for s in run.steps for a in s.asked]))
    began = [step.ended - step.began for step in found.steps]
    assert sum(began) / len(began) == pytest.approx(run.step_s, rel=0.05)


def test_what_cannot_be_fitted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no lengths; run the stage again"):
        read_run(written(tmp_path / "old", lengths=False))
    with pytest.raises(UserError, match="not a stage that has run"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match="max_staleness: 0"):
        fit([read_run(written(tmp_path / "ahead", staleness=1))])
    stage = written(tmp_path / "few")
    lines = (stage / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (stage / "rollouts.jsonl").write_text("".join(lines[::2]))
    with pytest.raises(UserError, match="0 steps with all 8 replies recorded; at least 3"):
        read_run(stage)


def question(**changes: Any) -> SplitQuestion:
    training = TrainingLoad(
        tokens=1, row_tokens=16384, workers=8, strategy="fsdp", precision="bf16", activations="checkpoint",
        **changes,
    )  # fmt: skip
    loads = Loads(
        shape("nano2-12b"),
        GenerationLoad(1, 16384, 64, engines=8, gpus=1, dtype="bfloat16"),
        training,
        HARDWARE["h100"],
    )
    plan = Plan(steps=3, prompts=4, group=16, staleness=1, row_tokens=16384)
    return SplitQuestion(loads, plan, Lengths(mean=2000, spread=0.5, prompt=200, most=8000), 2000.0)


def test_an_engine_of_the_12b_by_hand() -> None:
    """[derived] 2 x 12.31e9 bytes of weights at half of 3.35 TB/s: 14.7 ms. A sequence of 2,000 tokens: 24,576
    bytes each, and 2 x 141.97 MiB of states: 208 us."""
    found = decoding(question().loads, prompt=1000, reply=2000)
    assert found.step_s == pytest.approx(24.62e9 / 1.675e12, rel=1e-3)
    assert found.sequence_s == pytest.approx(
        (2000 * 24576 + 2 * 141.97 * 2**20) / 1.675e12, rel=1e-3
    )
    # 4 bytes of each weight: an eighth copied by each trainer, all of it by an engine.
    parts = timing(question().loads, Lengths(mean=2000), 2000)
    assert parts.sync_s == pytest.approx(4 * 12.31e9 * (1 / 8 + 1) / 5e9, rel=1e-3)


def test_only_splits_that_fit_are_tried() -> None:
    """[derived] of 8 cards: four hold 45.9 GiB of state each and 34 beside it, over 74.5; five hold 36.7."""
    found = list(splits(question(), 8))
    assert [split.trainers for split in found] == [5, 6, 7]
    assert all(split.cards == 8 and split.engines == 8 - split.trainers for split in found)
    rows = list(splits(question(context=8), 32))
    assert [split.trainers for split in rows] == [8, 16, 24]


def test_what_lies_beside_the_policy_takes_its_room_and_its_passes() -> None:
    """[derived] a reward model of 49.2 GB beside the 12B: eight trainers that share a row have no room for it,
    sixteen have. A reference of a KL reads every token once, where the policy makes four passes."""
    alone = question(context=8)
    s = alone.loads.shape

    def beside(how: Beside) -> SplitQuestion:
        return replace(alone, loads=alone.loads._replace(frozen=[(s, how)]))

    scored = beside(Beside("scores", sharded=False, passes=0))
    assert [split.trainers for split in splits(scored, 32)] == [16, 24]
    lengths = Lengths(mean=2000)
    assert (
        timing(scored.loads, lengths, 2000).training == timing(alone.loads, lengths, 2000).training
    )
    computed = [
        timing(
            one.loads._replace(hardware=replace(HARDWARE["h100"], link=1e30, network=1e30)),
            lengths, 2000,
        ).training.token_s for one in (alone, beside(Beside("reference")))
    ]  # fmt: skip
    assert computed[1] == pytest.approx(computed[0] * 5 / 4)


def test_an_engine_decodes_as_plans_and_comparisons_say() -> None:
    """One formula: at the same shares, batch and context all three have the same step."""
    for name in ("h100", "cpu"):  # bound by what is read, and by what is computed
        hardware = HARDWARE[name]
        loads = question().loads._replace(hardware=hardware)
        step = decoding(loads, prompt=4096, reply=8192).iteration_s(64)
        shares = Assumed(mbu=hardware.mbu, mfu=hardware.mfu)
        one = served_at(loads.shape, hardware, Load(4096, 8192), 64, shares)
        assert one.step_s == pytest.approx(step)
    cached = replace(loads.generation, tokens=64, context_tokens=16384, engines=1)
    planned = price(loads.shape, cached, HARDWARE["h100"])["seconds"]
    decoded = decoding(question().loads, prompt=0, reply=16384)
    assert planned == pytest.approx(decoded.iteration_s(64))


def test_a_prompt_is_read_like_a_document_and_a_reply_sees_all_before_it() -> None:
    """[derived] The 12B's scores are 4 x 40 heads x 128 FLOPs in each of its 6 layers of attention for a token that
    is seen: half of 2,000 in the prompt, and with half of the reply 2,500; at a context of nothing the rest."""
    loads = question().loads
    flops = HARDWARE["h100"].flops * HARDWARE["h100"].mfu
    rest = cost.forward_flops(loads.shape, 128) - 6 * 4 * 64 * 40 * 128
    found = decoding(loads, prompt=2000, reply=1000)
    assert found.prompt_s * flops == pytest.approx(rest + 6 * 4 * 1000 * 40 * 128)
    assert found.compute_s * flops == pytest.approx(rest + 6 * 4 * 2500 * 40 * 128)


def test_scaling_ends_where_twice_the_cards_are_not_worth_it() -> None:
    found = best(question(), [8, 16, 32, 64])
    assert [split.cards for split in found] == [8, 16, 32, 64]
    steps = [split.outcome.step_s for split in found]
    gains = [a / b for a, b in itertools.pairwise(steps)]
    end = end_of_scaling(found)
    assert end is not None and gains[found.index(next(s for s in found if s.cards == end))] < 1.25
    assert all(gain >= 1.25 for gain in gains[: [8, 16, 32].index(end)])
    # A longest reply takes its iterations on however many engines.
    assert steps[-1] > 8000 / 2 * 14.7e-3
    assert end_of_scaling(found[:1]) is None
