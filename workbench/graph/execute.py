"""Drive a run: submit stages as their needs are met, show progress, stop and fail cleanly."""

import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TextIO

from workbench import cluster, placement
from workbench.distributed.room import memory_of_cards
from workbench.errors import UserError, one_line
from workbench.graph.dag import FRESH, Decision, decide
from workbench.graph.task import Outcome, run_stage
from workbench.progress import ProgressDisplay
from workbench.recipe import Recipe
from workbench.rundir import RunDir
from workbench.stuck import StuckWatch, watched

# A service manager signals every process of a group, and the one that started this one passes its own on.
_SAME_SIGNAL_S = 0.5


@dataclass
class Drive:
    """State of one drive through the graph."""

    recipe: Recipe
    run: RunDir
    stages: list[str]
    show: ProgressDisplay
    fresh: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    signals: int = 0
    nodes: Sequence[placement.Node] = ()
    ended: Callable[[], object] = lambda: None

    def settle(self, nodes: Sequence[placement.Node]) -> None:
        """Choose the cards that the recipe leaves out, now that it is known what there is."""
        self.nodes, self.recipe = nodes, placement.settle(self.recipe, nodes)

    def stuck_watch(self, stage: str) -> StuckWatch | None:
        """What tells when the stage makes no progress; None where that is not wanted."""
        after_s = self.recipe.cluster.stuck_after_s
        folder = self.run.stage(stage)
        return None if after_s is None else StuckWatch(folder, after_s, self.show.note)

    def has_room(self, stage: str, running: Iterable[str]) -> bool:
        """Whether the stage and its engines find their cards beside the stages that run. One that
        began and waited for its engine would keep the card that another one waits for."""
        wanted = [
            seat._replace(cpus=0.0)
            for name in (*running, stage)
            for seat in placement.seats(self.recipe.stages[name])
            if seat.gpus
        ]
        return placement.room(self.nodes, wanted) is None

    def ready(self, running: set[str]) -> Iterator[Decision]:
        """Stages whose needs are met; skipped ones are recorded on the way."""
        for stage in self.stages:
            if stage in self.outcomes or stage in running:
                continue
            needs = self.recipe.stages[stage].needs
            if any(n not in self.outcomes or self.outcomes[n].status != "done" for n in needs):
                continue
            decision = decide(self.recipe, self.run, stage, rerun=set())
            self.run.contents.save()
            if stage in self.fresh and not decision.resume:
                decision = Decision(stage, True, FRESH)
            self.show.decided(stage, decision.run, decision.reason)
            if decision.run:
                yield decision
            else:
                self.outcomes[stage] = Outcome(stage, "done")

    @property
    def failed(self) -> bool:
        """Whether a stage ended otherwise than done: nothing further is started."""
        return any(outcome.status != "done" for outcome in self.outcomes.values())

    def finish(self, outcome: Outcome) -> None:
        """Record and show how a stage ended."""
        self.outcomes[outcome.stage] = outcome
        manifest = self.run.manifest(outcome.stage)
        self.show.finished(
            outcome.stage, outcome.status, outcome.message, manifest.wall_s if manifest else 0.0
        )
        try:
            self.ended()
        except Exception as error:  # noqa: BLE001 - a picture of a run never ends it
            self.show.note(f"the report was not written ({one_line(error)}); the run goes on")


def drive(
    recipe: Recipe,
    run: RunDir,
    stages: list[str],
    *,
    fresh: set[str],
    out: TextIO,
    ended: Callable[[], object] = lambda: None,
    check: Callable[[Recipe, Collection[str], Collection[float]], object] = lambda *_: None,
) -> int:
    """Run the stages. Returns the exit code: 0 done, 2 a user's mistake, 1 failed or stopped. ended: called
    as each stage ends; what it raises ends nothing. check: refuses what the cards of a joined cluster cannot
    hold, given the settled recipe, the stages that will run and each card's bytes."""
    with ProgressDisplay(out) as show:
        state = Drive(recipe, run, stages, show, fresh, ended=ended)
        if recipe.cluster.backend == "local":
            state.settle(placement.local_nodes(recipe.cluster) or [])
            if not placement.check_one_process(state.recipe, _to_run(state)):
                placement.hide_cards()
            with _stop_on_signal(state):
                _set_aside(state)
                _drive_here(state)
        else:
            with _stop_on_signal(state) as catch_again:
                try:
                    show.note(
                        cluster.connect(
                            recipe.cluster, namespace=cluster.namespace("run", run.root)
                        )
                    )
                    catch_again()  # Ray puts its own SIGTERM handler in place
                    state.settle(cluster.nodes())
                    for name in _to_run(state):
                        placement.check_room(name, state.recipe.stages[name], state.nodes)
                    if placement.local_nodes(recipe.cluster) is None:
                        check(state.recipe, _to_run(state), memory_of_cards())
                    _set_aside(state)
                    _drive_on_ray(state)
                except SystemExit:  # what that handler does, until ours is back
                    state.signals += 1
                finally:
                    cluster.disconnect()
    return _exit_code(state)


def _to_run(state: Drive) -> list[str]:
    """The stages that will run."""
    rerun = dict[str, None]()
    for name in state.stages:
        if name in state.fresh or decide(state.recipe, state.run, name, set(rerun)).run:
            rerun[name] = None
    return list(rerun)


def _set_aside(state: Drive) -> None:
    """Once nothing can be refused any more: --fresh must not move results and then fail."""
    for name in state.fresh:
        state.run.set_aside(name)


def _drive_here(state: Drive) -> None:
    resolved = state.recipe.resolved()
    while not state.signals and not state.failed:
        decision = next(state.ready(set()), None)
        if decision is None:
            return
        state.show.watch(decision.stage, state.run.stage(decision.stage))
        stuck = state.stuck_watch(decision.stage)
        with watched(stuck) if stuck else nullcontext():
            outcome = run_stage(resolved, str(state.run.root), decision, False)
        state.finish(outcome)


def _drive_on_ray(state: Drive) -> None:
    import ray  # noqa: PLC0415 - only where Ray is used

    remote = ray.remote(run_stage)
    resolved = state.recipe.resolved()
    running: dict[Any, str] = {}
    stuck: dict[str, StuckWatch | None] = {}
    stopping_since: float | None = None
    while True:
        if not state.signals and not state.failed:
            for decision in state.ready(set(running.values())):
                if not state.has_room(decision.stage, running.values()):
                    continue
                cpus, gpus = state.recipe.stages[decision.stage].reserved
                cluster.make_room(gpus or 0.0)
                task = remote.options(
                    name=decision.stage,
                    num_cpus=cpus,
                    num_gpus=gpus,
                    max_retries=0,
                    scheduling_strategy="DEFAULT" if cpus or gpus else cluster.beside_driver(),
                    runtime_env=cluster.runtime_env(gpus or 0.0),
                ).remote(resolved, str(state.run.root), decision, True)
                running[task] = decision.stage
                stuck[decision.stage] = state.stuck_watch(decision.stage)
                state.show.watch(decision.stage, state.run.stage(decision.stage))
        if not running:
            return
        finished, _ = ray.wait(list(running), timeout=0.5)
        for task in finished:
            state.finish(_outcome(task, running.pop(task)))
        state.show.refresh()
        for watch in [found for name in running.values() if (found := stuck[name])]:
            watch.look()
        if state.signals:
            stopping_since = stopping_since or time.monotonic()
            late = time.monotonic() - stopping_since > state.recipe.cluster.stop_grace_s
            if late or state.signals > 1:
                for task, stage in running.items():
                    ray.cancel(task, force=True)
                    state.finish(
                        Outcome(
                            stage,
                            "stopped",
                            "did not save in time; continues from its last checkpoint",
                        )
                    )
                return


def _outcome(task: Any, stage: str) -> Outcome:
    import ray  # noqa: PLC0415 - only where Ray is used

    try:
        outcome: Outcome = ray.get(task)
    except ray.exceptions.RayError as error:  # the worker died: out of memory, killed, lost node
        line = str(error).strip().splitlines()[0]
        return Outcome(stage, "failed", f"its worker died ({line}); rerun to continue")
    return outcome


@contextmanager
def _stop_on_signal(state: Drive) -> Iterator[Callable[[], None]]:
    """First Ctrl-C or SIGTERM: ask stages to save. Second: leave at once; on Ray the driver's loop does, and
    here, where a stage has this thread, by KeyboardInterrupt. Raises: KeyboardInterrupt."""
    last = -_SAME_SIGNAL_S

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before_that, last = last, time.monotonic()
        if last - before_that < _SAME_SIGNAL_S:
            return
        state.signals += 1
        try:
            state.run.stop_file.touch()
        except OSError:  # a full disk: stages cannot be asked, so they are ended
            state.signals += 1
        if state.signals == 1:
            state.show.note("stopping: stages save their state (once more to leave at once)")
        elif state.recipe.cluster.backend == "local":
            for number in before:
                signal.signal(number, signal.SIG_DFL)  # the next one needs nothing of Python
            raise KeyboardInterrupt

    def catch() -> None:
        for number in before:
            signal.signal(number, ask)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    catch()
    try:
        yield catch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(state: Drive) -> int:
    statuses = {outcome.status for outcome in state.outcomes.values()}
    if "user_error" in statuses:
        first = next(o for o in state.outcomes.values() if o.status == "user_error")
        raise UserError(f"stage {first.stage!r}: {first.message}")
    return 1 if state.signals or statuses - {"done"} else 0
