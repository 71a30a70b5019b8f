"""Whether a result is of the checkpoint that its stage has now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.rundir import Manifest


@dataclass(frozen=True)
class Checkpoints:
    """now: stage -> the completion id of its present result. read: stage -> the one that the evals
    stage read, for results of versions that did not write down theirs."""

    now: dict[str, str | None]
    read: dict[str, str]

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> "Checkpoints":
        """From the manifests of a run's stages."""
        found = list(manifests)
        read = {k: v for m in found if m.kind == "evals" for k, v in m.inputs.items()}
        return cls({m.stage: m.completion for m in found}, read)

    def is_earlier(self, model: str, result: Mapping[str, Any]) -> bool:
        """Whether stage `model` was run again since `result` (results.json) was made of it. Ids are
        compared, no weights; models that no stage of the run makes are taken as they are."""
        made_from = result.get("completion") or self.read.get(model)
        return model in self.now and made_from is not None and made_from != self.now[model]
