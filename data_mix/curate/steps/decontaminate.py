"""Step `decontaminate`: no text that shares words with a benchmark's question, or says it in other words.

Two rounds. Runs of words decide at once. With a judge, the texts that are left are compared with all
questions, and the likest are put to another model, question first and text first: both yes, contaminated;
both no, clean; else undecided, and the text is removed as that. A judge that does not answer, is cut or
cannot be read decides nothing: the row has failed, and is tried again.
"""

from collections.abc import Sequence
from pathlib import Path

from data_mix.curate.config import DecontaminateStep
from data_mix.curate.nearest import Near, Nearest
from data_mix.curate.questions import BenchmarkQuestion, gather, looked_for, read
from data_mix.curate.step import CurateStep, Decision
from data_mix.decontaminate import Decontaminator
from data_mix.documents import Document
from data_mix.scatter import ShardJob
from data_mix.shard_columns import Row
from data_mix.shards import Item, says
from engine.judge_client import JudgeClient, JudgeReply, Messages
from workbench.conversation import Conversation

_ASK = (
    "Below are a question of a benchmark and a passage of a text that a model may be trained on. Does the "
    "passage contain this question, in the same or other words, with the same facts and numbers, so that "
    "whoever has read it has seen the question? A passage on the same subject is not enough.\n\n{parts}\n\n"
    "Answer with one word, yes or no."
)


def prepare(config: DecontaminateStep, name: str, stage: Path) -> None:
    """Gather the questions, before workers are started."""
    path = questions_file(stage, name)
    gather(config.against, config.data, path)
    looked_for(path, config.ngram_words)


def questions_file(stage: Path, name: str) -> Path:
    """Where a step's questions lie for its workers, until the stage is done."""
    return stage / "checkpoints" / f"{name}.jsonl"


class Decontaminate(CurateStep):
    """See the module."""

    def __init__(self, config: DecontaminateStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config = config
        path, size = questions_file(job.stage, name), config.ngram_words
        prompts, common = looked_for(path, size)
        self._guard = Decontaminator(prompts, ngram_words=size, common=common)
        self._questions = read(path) if config.judge is not None else []
        self._judge = JudgeClient(config.judge) if config.judge is not None else None
        self._nearest = (
            Nearest([_shown(question) for question in self._questions]) if self._judge else None
        )

    def decide(self, items: Sequence[Item]) -> list[Decision]:
        """See CurateStep."""
        texts = [says(item.row) for item in items]
        found: list[Decision] = [
            self.removed("shares words with a question")
            if self._guard.is_contaminated(_document(item.row, text))
            else None
            for item, text in zip(items, texts, strict=True)
        ]
        if self._judge is None or self._nearest is None:
            return found
        config = self._config
        left = [place for place, decision in enumerate(found) if decision is None]
        near = {p: self._nearest.of(texts[p], config.candidates, config.likeness) for p in left}
        pairs = [(place, one) for place in left for one in near[place]]
        for place, _ in pairs:
            self.count(items[place], "questions put to the judge")
        asked = [message for _, one in pairs for message in self._both_orders(one)]
        replies = iter(self._judge.ask_all(asked))
        verdicts: dict[int, list[str]] = {}
        for place, _ in pairs:
            verdicts.setdefault(place, []).append(verdict_of(next(replies), next(replies)))
        for place, said in verdicts.items():
            found[place] = self._decision(said)
        return found

    def _decision(self, verdicts: Sequence[str]) -> Decision:
        if "contaminated" in verdicts:
            return self.removed("a question in other words")
        if problem := next((v for v in verdicts if v.startswith("judge")), None):
            return self.failed(problem)
        return self.removed("undecided by the judge") if "undecided" in verdicts else None

    def _both_orders(self, near: Near) -> list[Messages]:
        question = f"Question:\n{_shown(self._questions[near.question])}"
        passage = f"Passage:\n{near.window}"
        orders = ((question, passage), (passage, question))
        return [
            [{"role": "user", "content": _ASK.format(parts="\n\n".join(order))}] for order in orders
        ]


def _document(row: Row, text: str) -> Document:
    """A conversation as one, for short questions are looked for in what its users ask."""
    if row.get("messages") is None:
        return text
    return Conversation.from_row({"domain": "", **row})


def _shown(question: BenchmarkQuestion) -> str:
    return question.texts[0][:2000] if question.texts else ""


def verdict_of(one: JudgeReply, other: JudgeReply) -> str:
    """contaminated, clean or undecided; "judge: ..." where a reply says nothing."""
    read_ones = [_read(reply) for reply in (one, other)]
    for said in read_ones:
        if said.startswith("judge"):
            return said
    if read_ones[0] != read_ones[1]:
        return "undecided"
    return "contaminated" if read_ones[0] == "yes" else "clean"


def _read(reply: JudgeReply) -> str:
    if reply.status != "ok":
        return reply.reason if reply.reason.startswith("judge") else f"judge: {reply.reason}"
    words = reply.text.lower().replace("*", " ").replace(".", " ").split()
    said = {"yes", "no"} & set(words)
    return said.pop() if len(said) == 1 else "judge: neither yes nor no"
