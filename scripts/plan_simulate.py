"""A GRPO stage on other numbers of cards, or with measured parts: what scripts/plan.py --simulate prints."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.plan_text import aligned
from workbench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rl.simulation.parts import Lengths, Plan
    from rl.simulation.splits import Split, SplitQuestion
    from workbench.recipe import Recipe

STEPS = 12
"""Steps that are simulated of every split."""
_SPREAD = 0.8


def simulated(recipe: "Recipe", args: argparse.Namespace, hardware: Any) -> dict[str, Any]:
    """Everything as JSON-able figures. Raises: UserError where the stage is no GRPO stage, or what is to be
    read is not there."""
    config = _stage(recipe, args.simulate)
    runs = Path(recipe.runs_dir)
    lengths, said = _lengths(config, args.replies or args.fitted, runs)
    if args.fitted:
        return _fitted(config, [runs / name for name in args.fitted.split(",")], lengths)
    return _on_cards(recipe, config, lengths, said, hardware, args)


def _stage(recipe: "Recipe", name: str) -> Any:
    if name not in recipe.stages:
        raise unknown_name("stage", name, recipe.stages)
    config: Any = recipe.stages[name]
    if config.kind != "grpo":
        raise UserError(
            f"--simulate {name}: it is of kind {config.kind!r}; simulated are stages of kind 'grpo'"
        )
    return config


def _lengths(config: Any, given: str | None, runs: Path) -> tuple["Lengths", str]:
    """Reply lengths, and in words where they come from."""
    from rl.simulation.fit import read_run
    from rl.simulation.parts import Lengths

    most = config.max_tokens
    if given and not given.replace(",", "").replace(".", "").isdecimal():
        found = [one for name in given.split(",") for one in read_run(runs / name).steps]
        seen = [asked for step in found for asked in step.asked]
        return Lengths(seen, most=most), f"drawn from {len(seen):,} replies of {given}"
    mean, _, spread = (given or f"{most / 3:g},{_SPREAD}").partition(",")
    try:
        lengths = Lengths(mean=float(mean), spread=float(spread or _SPREAD), most=most, prompt=200)
    except ValueError:
        raise UserError(f"--replies {given}: give MEAN or MEAN,SPREAD, or RUN/STAGE") from None
    return lengths, (
        f"log-normal, mean {float(mean):,.0f} tokens, spread {lengths.spread:g} (of the logarithm), cut at "
        f"{most:,}; prompts of {lengths.prompt} tokens"
    )


def _plan(config: Any, steps: int) -> "Plan":
    from rl.simulation.parts import Plan

    return Plan(
        steps=steps,
        prompts=config.prompts_per_step,
        group=config.group_size,
        staleness=config.max_staleness,
        row_tokens=config.microbatch_tokens,
        save_every=config.checkpoint_every_steps,
    )


def _fitted(config: Any, folders: list[Path], lengths: "Lengths") -> dict[str, Any]:
    """The stage as it is written, with the parts of runs that were measured."""
    from rl.simulation.events import simulate
    from rl.simulation.fit import fit, read_run
    from rl.simulation.parts import Layout

    seen = [read_run(folder) for folder in folders]
    parts = fit(seen)
    layout = Layout(
        engines=config.engine.replicas,
        groups=config.distributed.data_workers,
        seats=config.engine.max_num_seqs,
    )
    outcome = simulate(_plan(config, config.num_steps), layout, parts, lengths)
    return {
        "fitted": [str(folder) for folder in folders],
        "parts": asdict(parts),
        "steps": len(outcome.steps),
        # As the stage logs it: without the checkpoint behind it, and without the step that warms up.
        "step_s": _mean([step.ended - step.began for step in outcome.steps[1:] or outcome.steps]),
        "update_s": _mean([step.update_s for step in outcome.steps]),
        "wait_s": _mean([step.wait_s for step in outcome.steps]),
        "staleness": outcome.staleness,
        "engine_idle": outcome.engine_idle,
        "trainers_idle": outcome.trainers_idle,
    }


def _on_cards(
    recipe: "Recipe", config: Any, lengths: "Lengths", said: str, hardware: Any, args: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """Every number of cards with its best split, by formula, beside the stage as it is written."""
    from rl.simulation.parts import Faults
    from rl.simulation.splits import best, end_of_scaling, longest_s, rows_of_a_step

    question = _question(recipe, config, lengths, hardware, args.simulate, Faults(args.lost))
    generation, training = question.loads.generation, question.loads.training
    written = question.on(training.workers, generation.engines)
    found = best(question)
    return {
        "stage": args.simulate,
        "lengths": said,
        "mean_reply": question.mean_reply,
        "rows_a_step": rows_of_a_step(question),
        "longest_s": longest_s(question),
        "replies_a_step": config.prompts_per_step * config.group_size,
        "lost_per_card_hour": args.lost,
        "staleness": config.max_staleness,
        "num_steps": config.num_steps,
        "written": _figures(written, config),
        "splits": [_figures(split, config) for split in found],
        "scaling_ends": end_of_scaling(found),
        "hardware": asdict(hardware),
    }


def _question(
    recipe: "Recipe", config: Any, lengths: "Lengths", hardware: Any, name: str, faults: Any
) -> "SplitQuestion":
    from rl.simulation.assumed import Loads
    from rl.simulation.splits import SplitQuestion
    from scripts.plan import beside_of, loads_of, shape_of

    shape = shape_of(recipe, name)
    generation, training = loads_of(recipe)[name]
    frozen = beside_of(recipe, training)
    for one in (shape, *(other for other, _ in frozen)):
        if isinstance(one, str):
            raise UserError(f"--simulate {name}: {one}")
    asked = [lengths.of(p, s) for p in range(64) for s in range(16)]
    mean = _mean([float(one.reply) for one in asked])
    return SplitQuestion(
        Loads(shape, generation, training, hardware, frozen),
        _plan(config, min(STEPS, config.num_steps)), lengths, mean, faults,
    )  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _figures(split: "Split", config: Any) -> dict[str, Any]:
    return {
        "cards": split.cards,
        "trainers": split.trainers,
        "engines": split.engines,
        "step_s": split.outcome.step_s,
        "days": split.outcome.step_s * config.num_steps / 86400,
        "trainers_idle": split.outcome.trainers_idle,
        "engines_idle": split.outcome.engine_idle,
        "idle": split.idle,
        "staleness": split.outcome.staleness,
        "lost": split.outcome.lost,
    }


def simulated_lines(found: dict[str, Any]) -> list[str]:
    """The figures as text."""
    return _fitted_lines(found) if "fitted" in found else _cards_lines(found)


def _fitted_lines(found: dict[str, Any]) -> list[str]:
    parts = found["parts"]
    engine, trainer = parts["decoding"], parts["training"]
    return [
        f"fitted to {', '.join(found['fitted'])}:",
        f"  an engine: {1e3 * engine['step_s']:.2f} ms an iteration and {1e3 * engine['sequence_s']:.3f} ms a "
        "sequence in it",
        f"  the trainer: {trainer['fixed_s']:.2f} s a step and {1e3 * trainer['token_s']:.3f} ms a token",
        f"  a sync {parts['sync_s']:.2f} s, the rest of a step {parts['other_s']:.2f} s, a checkpoint "
        f"{parts['save_s']:.2f} s",
        f"predicted, {found['steps']} steps: {found['step_s']:.2f} s a step (waiting for rollouts "
        f"{found['wait_s']:.2f} s, update {found['update_s']:.2f} s), staleness {found['staleness']:.2f}, "
        f"engines idle {found['engine_idle']:.0%}, trainer idle {found['trainers_idle']:.0%}",
    ]


_HEAD = ("cards", "trainers", "engines", "a step", "all steps", "faster", "idle: trainers", "engines", "all", "staleness", "lost")  # fmt: skip


def _cards_lines(found: dict[str, Any]) -> list[str]:
    rows = [_HEAD, _cards_row(found["written"], None, note="as written")]
    before = None
    for split in found["splits"]:
        rows.append(_cards_row(split, before))
        before = split
    return [
        f"{found['stage']}: {found['replies_a_step']:,} replies a step in {found['rows_a_step']:,} rows, "
        f"max_staleness {found['staleness']}; replies {found['lengths']} (mean {found['mean_reply']:,.0f} after "
        "the cut)",
        "",
        *aligned(rows, left=1),
        "",
        _end(found),
        *_assumed(found),
    ]


def _cards_row(
    split: dict[str, Any], before: dict[str, Any] | None, note: str = ""
) -> tuple[str, ...]:
    faster = f"{before['step_s'] / split['step_s']:.2f} x" if before else note
    return (
        f"{split['cards']:,}",
        f"{split['trainers']:,}",
        f"{split['engines']:,}",
        f"{split['step_s']:,.1f} s",
        f"{split['days']:,.2f} days",
        faster,
        f"{split['trainers_idle']:.0%}",
        f"{split['engines_idle']:.0%}",
        f"{split['idle']:.0%}",
        f"{split['staleness']:.2f}",
        f"{split['lost']:,}",
    )


def _end(found: dict[str, Any]) -> str:
    end = found["scaling_ends"]
    floor = f"the longest reply of a step takes {found['longest_s']:,.0f} s alone on an engine."
    if not found["splits"]:
        return f"the trainers fit on no number of cards from 8 to 1,024 of {found['hardware']['name']}; {floor}"
    if end is None:
        return f"twice the cards were always worth it (a step at least 1.25 times as fast); {floor}"
    return f"scaling ends at {end:,} cards: twice as many make a step less than 1.25 times as fast; {floor}"


def _assumed(found: dict[str, Any]) -> list[str]:
    from rl.simulation.assumed import COPY_BYTES_S, HOST_BYTES_S

    card = found["hardware"]
    return [
        f"assumed, not measured, of {card['name']}: training at mfu {card['mfu']:g} of {card['flops'] / 1e12:,.0f} "
        f"TFLOP/s; engines read weights, caches and states at mbu {card['mbu']:g} of "
        f"{card['bandwidth'] / 1e12:,.2f} TB/s, or compute at mfu; {card['link'] / 1e9:,.0f} and "
        f"{card['network'] / 1e9:,.0f} GB/s between cards and machines at a share of {card['link_share']:g}; weights "
        f"are copied and checked at {COPY_BYTES_S / 1e9:g} GB/s a process and go to the host at "
        f"{HOST_BYTES_S / 1e9:g} GB/s; {found['lost_per_card_hour']:g} cards lost an hour and card (--lost); checks "
        "of replies take no time; every split keeps the stage's prompts, groups, rows and context.",
        f"each row is the fastest of seven splits whose trainers fit, {STEPS} steps simulated; engines are as written. None of it was seen on a "
        "card; on CPU cores one of four predictions was within 15% (docs/scale.md).",
    ]
