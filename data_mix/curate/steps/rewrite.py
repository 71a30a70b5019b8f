"""Step `rewrite`: a model cleans each text, and a gate lets through what is the text less its frame.

A text is asked about in pieces, side by side. Every whole reply is kept under the digest of model, prompt, sampling
and seed (engine.replies), so that a kill repeats only what was in flight. A server that breaks and a reply that is
cut decide nothing: the row has failed, and is tried again with further seeds. A reply that is not faithful is
sampled anew; where `attempts` whole ones are not, the piece stays as it was, or the row is removed.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_mix.curate.config import RewriteStep
from data_mix.curate.step import CurateStep, Decision
from data_mix.faithful import CLEAN, pieces, unfaithful
from data_mix.scatter import ShardJob
from data_mix.shards import Item, shard_path
from engine.endpoint import ChatClient, Said
from engine.protocol import sample_seed
from engine.replies import ReplyLog, reply_key
from workbench.errors import UserError

# What a model says where nothing of a piece is of the matter.
_EMPTY = "(nothing)"
_OR_NOTHING = f"\n\nIf nothing in it is of the matter, write {_EMPTY}."
# So many errors in a row, and no reply between them, are no row's fault.
_DEAD_AFTER = 24
_FINISHED = "finished"


def prepare(config: RewriteStep, name: str, stage: Path) -> None:
    """Ask the server for a word, before workers are started. Raises: UserError where it has none."""
    client = _client(config)
    said = client.chat([{"role": "user", "content": "Reply with the word ready."}], max_tokens=32)
    client.close()
    if said.finish_reason == "error":
        raise UserError(
            f"step {name}: the model at {config.by.endpoint} does not answer ({said.error[:200]}); start it, or "
            f"correct `endpoint` (key: {config.by.api_key_env})"
        )


def _client(config: RewriteStep) -> ChatClient:
    by = config.by
    return ChatClient(by.endpoint, api_key_env=by.api_key_env, retries=by.retries, timeout_s=by.timeout_s)  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    """What became of a piece. text: as it goes on. failed: why there is no decision. kept_for: why it stays as
    it was; empty where it was rewritten. asked: replies read."""

    text: str
    failed: str = ""
    kept_for: str = ""
    asked: int = 0


class Rewrite(CurateStep):
    """See the module."""

    def __init__(self, config: RewriteStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config, self._job = config, job
        self._client = _client(config)
        self.batch_rows = config.by.parallel
        self._log: ReplyLog | None = None
        self._goes, self._errors, self._lock = 1, 0, threading.Lock()

    def begins(self, number: int) -> None:
        """See CurateStep. Replies lie by shard."""
        if self._log is not None:
            self._log.close()
        self._log = ReplyLog(self._job.stage / "replies" / self.name / f"{number:05d}.jsonl")
        facts = shard_path(self._job.stage, number).with_suffix(".json")
        if (
            facts.is_file()
        ):  # it stands, and rows of it failed: further seeds, the same ones after a kill
            marker = f"{_FINISHED}-{facts.stat().st_mtime_ns}"
            if self._log.get(marker) is None:
                self._log.add({"key": marker})
        self._goes = 1 + sum(key.startswith(_FINISHED) for key in self._log.rows)

    def decide(self, items: Sequence[Item]) -> list[Decision]:
        """See CurateStep."""
        config = self._config
        cut = [pieces(str(item.row["text"]), config.chunk_tokens) for item in items]
        wanted = [
            (f"{item.row.get('id')}/{n}", piece)
            for item, own in zip(items, cut, strict=True)
            for n, piece in enumerate(own)
        ]
        with ThreadPoolExecutor(config.by.parallel, thread_name_prefix="rewrite") as pool:
            made = iter(list(pool.map(lambda one: self._rewritten(*one), wanted)))
        return [
            self._decision(item, [next(made) for _ in own])
            for item, own in zip(items, cut, strict=True)
        ]

    def _decision(self, item: Item, made: Sequence[_Piece]) -> Decision:
        if failed := next((one.failed for one in made if one.failed), ""):
            return self.failed(failed)
        for one in made:
            self.count(item, "replies", one.asked)
            self.count(item, f"as it was: {one.kept_for}" if one.kept_for else "pieces rewritten")
        kept_for = next((one.kept_for for one in made if one.kept_for), "")
        if kept_for and self._config.otherwise == "remove":
            return self.removed(kept_for)
        if all(one.kept_for for one in made):
            return None
        text = "".join(one.text for one in made)
        if not text.strip():
            return self.removed("nothing of the matter")
        item.row["text"] = text
        return None

    def _rewritten(self, name: str, piece: str) -> _Piece:
        """The first faithful reply; without one, why."""
        cut, reasons = "", list[str]()
        for attempt in range(self._config.attempts * self._goes):
            said = self._asked(f"{name}/{attempt}", piece)
            if said.finish_reason == "error":
                return _Piece(piece, failed=said.error[:120])
            if said.finish_reason == "length":
                cut = f"the reply was cut after {self._config.by.max_tokens:,} tokens"
                continue
            text = said.answer.strip()
            text = "" if text == _EMPTY else text
            reason = unfaithful(piece, text, max_dropped=self._config.max_dropped)
            if not reason:
                return _Piece(_between_edges(text, piece), asked=attempt + 1)
            reasons.append(reason)
        if cut and len(reasons) < self._config.attempts:
            return _Piece(piece, failed=cut)
        return _Piece(piece, kept_for=reasons[0], asked=len(reasons))

    def _asked(self, name: str, piece: str) -> Said:
        """A reply: from the log where it is there, else from the model."""
        by, log = self._config.by, self._log
        assert log is not None, "no shard has begun"
        messages = [{"role": "user", "content": CLEAN.replace("{text}", piece) + _OR_NOTHING}]
        sampling = {"temperature": by.temperature, "max_tokens": by.max_tokens}
        seed = sample_seed(self._job.seed, name, 0)
        key = reply_key(by.endpoint, messages, (), sampling, seed)
        if (row := log.get(key)) is not None:
            return Said(row["finish"], row["answer"])
        said = self._client.chat(
            messages, temperature=by.temperature, max_tokens=by.max_tokens, seed=seed
        )
        with self._lock:
            self._errors = self._errors + 1 if said.finish_reason == "error" else 0
            dead = self._errors >= _DEAD_AFTER
        if dead:
            raise UserError(
                f"step {self.name}: the model at {by.endpoint} answers no more ({_DEAD_AFTER} errors in a row; the "
                f"last: {said.error[:200]}); what has come is kept: see to it, and run the same command again"
            )
        if said.finish_reason != "error":
            log.add(
                {"key": key, "for": name, "finish": said.finish_reason, "answer": said.answer}
                | {"tokens": said.tokens, "prompt_tokens": said.prompt_tokens}
            )  # fmt: skip
        return said


def _between_edges(text: str, piece: str) -> str:
    """The text between the empty lines and blanks that the piece begins and ends with."""
    if not text:
        return ""
    begins = piece[: len(piece) - len(piece.lstrip())]
    return begins[: begins.rfind("\n") + 1] + text + piece[len(piece.rstrip()) :]
