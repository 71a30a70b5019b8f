"""Weighted, phased mixing by tokens: deterministic, exactly accounted, exactly resumable."""

from collections.abc import Callable, Sequence
from typing import Any

from data_mix.config import BlendConfig, PhaseConfig
from data_mix.documents import Document
from data_mix.sources import Source, open_source
from workbench.errors import UserError


class Mixer:
    """Draws tokenized documents so that each phase's token shares follow its weights.

    Each draw takes the source whose drawn tokens lag furthest behind weight x all tokens of the
    phase, the one with the larger weight on a tie. The error of a source's share is therefore
    bounded by the length of a few documents, whatever their lengths, and there is no randomness
    outside the sources.
    """

    def __init__(
        self, blend: BlendConfig, *, tokenize: Callable[[Document], Sequence[int]], seed: int
    ) -> None:
        self._phases = blend.phases
        self._tokenize = tokenize
        used = {name for phase in blend.phases for name, w in phase.weights.items() if w > 0}
        self._sources: dict[str, Source] = {
            name: open_source(config, name=name, seed=seed)
            for name, config in blend.sources.items()
            if name in used
        }
        # By phase: source -> [samples, tokens].
        self._drawn: list[dict[str, list[int]]] = [{} for _ in blend.phases]

    def draw(self, progress: float) -> Sequence[int]:
        """The next document's tokens; `progress` is the share of all tokens already trained on."""
        number = self._phase_at(progress)
        name = self._most_behind(self._phases[number], self._drawn[number])
        source = self._sources[name]
        document = source.draw()
        try:
            tokens = self._tokenize(document)
        except UserError as error:
            raise UserError(f"source {name!r}: {source.last_place()}: {error}") from None
        if not tokens:
            raise UserError(
                f"source {name!r}: {source.last_place()} has no tokens; filter it out "
                "(clean.filters: min_characters; in a data stage step length)"
            )
        counts = self._drawn[number].setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += len(tokens)
        return tokens

    def _phase_at(self, progress: float) -> int:
        for number, phase in enumerate(self._phases):
            if progress < phase.until:
                return number
        return len(self._phases) - 1

    @staticmethod
    def _most_behind(phase: PhaseConfig, drawn: dict[str, list[int]]) -> str:
        total = sum(tokens for _, tokens in drawn.values())
        return max(
            (name for name, weight in phase.weights.items() if weight > 0),
            key=lambda name: (
                phase.weights[name] * total - drawn.get(name, (0, 0))[1],
                phase.weights[name],
            ),
        )

    def accounting(self) -> dict[str, Any]:
        """By phase: what each source was to give and gave. For the manifest::

        {"phases": [{"until": 0.6, "tokens": 1000, "sources": {"math": {"weight": 0.5,
          "share": 0.502, "samples": 12, "tokens": 502}}}], "cleaning": {}}
        """
        phases = []
        for phase, drawn in zip(self._phases, self._drawn, strict=True):
            total = sum(tokens for _, tokens in drawn.values())
            sources = {
                name: {
                    "weight": weight,
                    "share": drawn.get(name, (0, 0))[1] / total if total else 0.0,
                    "samples": drawn.get(name, (0, 0))[0],
                    "tokens": drawn.get(name, (0, 0))[1],
                }
                for name, weight in phase.weights.items()
            }
            phases.append({"until": phase.until, "tokens": total, "sources": sources})
        cleaning = {name: s.accounting() for name, s in self._sources.items() if s.accounting()}
        return {"phases": phases, "cleaning": cleaning}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly; JSON-able but for a hub source's own state."""
        return {
            "drawn": [{name: list(c) for name, c in phase.items()} for phase in self._drawn],
            "sources": {name: source.state_dict() for name, source in self._sources.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Raises UserError where the blend is another one."""
        if set(state["sources"]) != set(self._sources) or len(state["drawn"]) != len(self._drawn):
            raise UserError(
                f"the saved blend has sources {sorted(state['sources'])} in {len(state['drawn'])} "
                f"phases, this one {sorted(self._sources)} in {len(self._drawn)}; "
                "use the same recipe or start afresh (--fresh)"
            )
        self._drawn = [{name: list(c) for name, c in phase.items()} for phase in state["drawn"]]
        for name, source in self._sources.items():
            source.load_state_dict(state["sources"][name])
