"""What gives texts a score: a classifier of ours, or one of Hugging Face's. One surface for both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from data_mix.quality.classifier import Classifier, load
from data_mix.quality.config import ClassifierConfig, HubClassifierConfig
from workbench.errors import UserError, one_line


class Scorer(Protocol):
    """Scores texts."""

    def score(self, texts: Sequence[str]) -> Sequence[float]:
        """A number for each text."""
        ...


def open_scorer(config: ClassifierConfig | HubClassifierConfig) -> Scorer:
    """The classifier. Raises: UserError where there is none."""
    if isinstance(config, ClassifierConfig):
        return _Own(
            load(Path(config.stage))
        )  # the running stage finds the folder in the name's place
    return HubClassifier(config)


class _Own:
    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def score(self, texts: Sequence[str]) -> list[float]:
        found: list[float] = self._classifier.score(texts).tolist()
        return found


class HubClassifier:
    """A sequence classifier of transformers."""

    def __init__(self, config: HubClassifierConfig) -> None:
        import torch  # noqa: PLC0415 - heavy, and only for these
        from transformers import (  # noqa: PLC0415
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        self._config, self._torch = config, torch
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                config.checkpoint, revision=config.revision
            )
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                config.checkpoint, revision=config.revision
            ).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"classifier {config.checkpoint!r}: {one_line(error)[:200]}") from None
        outputs = int(self._model.config.num_labels)
        if config.label >= outputs:
            raise UserError(
                f"classifier {config.checkpoint!r} has {outputs} outputs; label must be below that, not {config.label}"
            )

    def score(self, texts: Sequence[str]) -> list[float]:
        """A regression's output as it is; of several outputs the label's probability."""
        found: list[float] = []
        for start in range(0, len(texts), self._config.batch):
            part = list(texts[start : start + self._config.batch])
            inputs = self._tokenizer(
                part,
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self._config.max_tokens,
            )
            with self._torch.no_grad():
                logits = self._model(**inputs).logits.float()
            if logits.shape[1] > 1:
                logits = logits.softmax(-1)[:, self._config.label : self._config.label + 1]
            found += [float(value) for value in logits[:, 0]]
        return found
