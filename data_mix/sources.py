"""Sources: endless seeded streams of documents that resume exactly, by one number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from data_mix.bfcl import bfcl_conversations
from data_mix.config import (
    BfclSource,
    CleanConfig,
    HouseSource,
    HubSource,
    JsonlSource,
    LongContextSource,
    ParquetSource,
    PretrainingSource,
    ReasoningSource,
    ShardsSource,
    SourceConfig,
    WorldSource,
)
from data_mix.decontaminate import Decontaminator, read_prompts
from data_mix.dedup import unique
from data_mix.documents import Document, document_of, text_of
from data_mix.files import matching_files
from data_mix.filters import predicate_of
from data_mix.reasoning import reasoning_conversations
from data_mix.rows import JsonlRows, ParquetRows, RowFile, rows_where
from data_mix.shards import shard_files
from data_mix.where import all_met, check_columns
from data_mix.world import (
    PROPORTIONS,
    conversation_at,
    conversations,
    house_conversations,
    long_context,
    pretraining_at,
)
from workbench.errors import UserError
from workbench.hub import must_answer


class Source(ABC):
    """An endless stream of documents. `position` counts the documents drawn."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = 0

    @property
    def size(self) -> int | None:
        """How many documents there are; None where that is not known, or they never end."""
        return None

    @abstractmethod
    def at(self, position: int) -> Document:
        """The document drawn at a position."""

    def draw(self) -> Document:
        """The next document."""
        document = self.at(self.position)
        self.position += 1
        return document

    def last_place(self) -> str:
        """Where the document stands that was drawn last, for messages."""
        return f"document {self.position}"

    def take(self, count: int) -> list[Document]:
        """`count` documents without a repetition, independent of `position`.

        Raises UserError where the source holds fewer.
        """
        return list(self.each(count))

    def each(self, count: int) -> Iterator[Document]:
        """As `take`, one after another, without holding them all where they lie in files."""
        return (self.at(position) for position in range(count))

    def look(self, count: int) -> Iterator[tuple[Document | UserError, str]]:
        """As `take`, each with its place; of a row that cannot be read the error in its stead."""
        for number, document in enumerate(self.take(count), start=1):
            yield document, f"source {self.name!r}, number {number}"

    def accounting(self) -> dict[str, Any]:
        """What cleaning removed, for the manifest; empty where nothing is cleaned."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.position = int(state["position"])


class _Generated(Source):
    """Documents computed from their position."""

    def __init__(self, name: str, at: Callable[[int], Document]) -> None:
        super().__init__(name)
        self._at = at

    def at(self, position: int) -> Document:
        return self._at(position)


class _Streamed(Source):
    """Documents of an endless seeded iterator, kept in order."""

    def __init__(self, name: str, documents: Iterator[Document]) -> None:
        super().__init__(name)
        self._documents, self._seen = documents, list[Document]()

    def at(self, position: int) -> Document:
        missing = position + 1 - len(self._seen)
        self._seen += islice(self._documents, max(missing, 0))
        return self._seen[position]


class _World(Source):
    def __init__(self, name: str, config: WorldSource, seed: int) -> None:
        super().__init__(name)
        self._config, self._seed = config, seed

    def at(self, position: int) -> Document:
        domain = self._config.domain
        if domain == "mix":
            rng = Random(f"{self._seed}/mix/{self._config.split}/{position}")
            domain = rng.choices(list(PROPORTIONS), weights=list(PROPORTIONS.values()))[0]
        return conversation_at(
            position,
            domain=domain,
            split=self._config.split,
            seed=self._seed,
            num_terms=self._config.num_terms,
        )

    def each(self, count: int) -> Iterator[Document]:
        """As many of each domain as its proportion asks for, prompts never repeated, shuffled."""
        config = self._config
        shares = PROPORTIONS if config.domain == "mix" else {config.domain: 1.0}
        drawn: list[Document] = []
        for domain, number in _apportion(shares, count).items():
            terms = config.num_terms
            drawn += conversations(domain, config.split, number, self._seed, num_terms=terms)
        Random(f"{self._seed}/order").shuffle(drawn)
        return iter(drawn)


def _apportion(shares: dict[str, float], count: int) -> dict[str, int]:
    """Whole numbers that sum to `count`: floors, then the largest remainders."""
    whole = {name: int(share * count) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: whole[name] - shares[name] * count)
    for name in by_remainder[: count - sum(whole.values())]:
        whole[name] += 1
    return whole


class _Listed(Source):
    """A fixed list, shuffled anew in every pass but the first."""

    def __init__(self, name: str, documents: Sequence[Document], seed: int) -> None:
        super().__init__(name)
        self._documents, self._seed = documents, seed
        if not documents:
            raise UserError(f"source {name!r} holds no documents; loosen its limits")

    def at(self, position: int) -> Document:
        number_of_pass, place = divmod(position, len(self._documents))
        order = list(range(len(self._documents)))
        if number_of_pass:
            Random(f"{self._seed}/{self.name}/{number_of_pass}").shuffle(order)
        return self._documents[order[place]]

    def each(self, count: int) -> Iterator[Document]:
        if count > len(self._documents):
            raise _too_few(self.name, len(self._documents), count)
        return super().each(count)


class _LocalFile(Source):
    """JSONL, Parquet or shards, shuffled anew in every pass; cleaned once, when opened.

    lenient: rows that cannot be read are kept, for `look` to say what is wrong with them.
    """

    def __init__(
        self,
        name: str,
        config: JsonlSource | ParquetSource | ShardsSource,
        seed: int,
        *,
        lenient: bool = False,
    ) -> None:
        super().__init__(name)
        if isinstance(config, ShardsSource):
            self._place, files = config.stage, shard_files(Path(config.stage))
        else:
            self._place, files = config.path, matching_files(config.path, name=name)
        jsonl = isinstance(config, JsonlSource)
        self._rows: RowFile = (
            JsonlRows(files) if jsonl else ParquetRows(files, name=name, read_of=config.read_of)
        )
        self._config, self._seed, self._lenient = config, seed, lenient
        self._removed: dict[str, int] = {}
        if isinstance(config, ShardsSource):
            kept = self._select(config, files)
        else:
            kept = self._clean(config.clean)
        # A mark a row: a set of numbers takes a hundred times the memory.
        self._kept = np.zeros(len(self._rows), dtype=bool)
        self._kept[np.fromiter(kept, np.int64)] = True
        self._num_kept = int(self._kept.sum())
        if not self._num_kept:
            raise UserError(
                f"source {name!r}: none of its {len(self._rows)} rows is left after cleaning "
                f"({self._removed}); loosen `clean` or `where`, or check {self._place!r}"
            )
        self._pass, self._order = -1, np.zeros(1, np.int64)

    def _document(self, number: int) -> Document:
        row, where = self._rows.row(number)
        return document_of(row, self._config, where=f"source {self.name!r}: {where}")

    def _select(self, config: ShardsSource, files: Sequence[Path]) -> Iterable[int]:
        if self._rows and not self._lenient:
            self._document(0)
        if not config.where:
            return range(len(self._rows))
        kept = list(rows_where(files, config.where, name=self.name))
        self._removed["where"] = len(self._rows) - len(kept)
        return kept

    def _clean(self, clean: CleanConfig) -> Iterable[int]:
        if clean == CleanConfig():
            if self._rows and not self._lenient:
                self._document(0)  # a wrong column is found now and not in the middle of a run
            return range(len(self._rows))
        numbers = list(range(len(self._rows)))
        unread = {n for n in numbers if self._lenient and isinstance(self._read(n), UserError)}
        judge = _Judge(clean, self._removed)
        numbers = [n for n in numbers if n not in unread and judge.keeps(self._document(n))]
        if clean.dedup != "none":
            near = clean.similarity if clean.dedup == "near" else None
            first = list(unique((text_of(self._document(n)) for n in numbers), near=near))
            self._removed["dedup"] = len(numbers) - len(first)
            numbers = [numbers[place] for place in first]
        return {*numbers, *unread}

    def _read(self, number: int) -> Document | UserError:
        try:
            return self._document(number)
        except UserError as error:
            return error

    @property
    def size(self) -> int:
        return self._num_kept

    def at(self, position: int) -> Document:
        return self._document(self._number(position))

    def last_place(self) -> str:
        return self._rows.place(self._number(self.position - 1))

    def _number(self, position: int) -> int:
        number_of_pass, place = divmod(position, self.size)
        if number_of_pass != self._pass:
            shuffled = np.asarray(
                self._rows.order(f"{self._seed}/{self.name}/{number_of_pass}"), np.int64
            )
            self._order = shuffled[self._kept[shuffled]]
            self._pass = number_of_pass
        return int(self._order[place])

    def each(self, count: int) -> Iterator[Document]:
        if count > self.size:
            raise _too_few(self.name, self.size, count)
        return super().each(count)

    def look(self, count: int) -> Iterator[tuple[Document | UserError, str]]:
        if count > self.size:
            raise _too_few(self.name, self.size, count)
        for position in range(count):
            number = self._number(position)
            yield self._read(number), self._rows.place(number)

    def accounting(self) -> dict[str, Any]:
        return {"rows": len(self._rows), "kept": self.size, "removed": dict(self._removed)}


def _too_few(name: str, held: int, count: int) -> UserError:
    return UserError(f"source {name!r} has {held} documents, {count} were asked for; ask for fewer")


class _Judge:
    """Filters and decontamination of one source, counting what each removed."""

    def __init__(self, clean: CleanConfig, removed: dict[str, int]) -> None:
        self._predicates = [(f.name, predicate_of(f)) for f in clean.filters]
        self._removed = removed
        against = clean.decontaminate_against
        self._guard = (
            Decontaminator(read_prompts(against), ngram_words=clean.ngram_words)
            if against
            else None
        )

    def keeps(self, document: Document) -> bool:
        for name, holds in self._predicates:
            if not holds(document):
                self._removed[name] = self._removed.get(name, 0) + 1
                return False
        if self._guard and self._guard.is_contaminated(document):
            self._removed["decontaminate"] = self._removed.get("decontaminate", 0) + 1
            return False
        return True


class _Hub(Source):
    """A hub dataset, streamed in its own order; a second pass repeats the first."""

    def __init__(self, name: str, config: HubSource, *, lenient: bool = False) -> None:
        super().__init__(name)
        self._config, self._lenient = config, lenient
        self._removed: dict[str, int] = {}
        self._judge = _Judge(config.clean, self._removed)
        self._read = 0
        self._start_pass()

    def _start_pass(self, state: dict[str, Any] | None = None) -> None:
        # Opened anew each time: a dataset that was given a state starts every pass from it.
        self._dataset = open_hub(self._config, self.name)
        if state is not None:
            self._dataset.load_state_dict(state)
        self._stream = self._one_pass()

    def _one_pass(self) -> Iterator[Document]:
        for document, _ in self._rows():
            if isinstance(document, UserError):
                raise document
            yield document

    def _rows(self) -> Iterator[tuple[Document | UserError, str]]:
        """What `clean` keeps of one pass, with places; of an unreadable row the error."""
        for row in self._dataset:
            self._read += 1
            if not wanted(row, self._config, self.name):
                self._removed["where"] = self._removed.get("where", 0) + 1
                continue
            place = f"{self._config.id}, row {self._read}"
            try:
                where = f"source {self.name!r}: {place}"
                document: Document | UserError = document_of(row, self._config, where=where)
            except UserError as error:
                document = error
            if isinstance(document, UserError) or self._judge.keeps(document):
                yield document, place

    def at(self, position: int) -> Document:
        raise NotImplementedError("a streamed source has no random access")

    def draw(self) -> Document:
        document = next(self._stream, None)
        if document is None:
            self._start_pass()
            document = next(self._stream, None)
        if document is None:
            raise UserError(
                f"source {self.name!r}: no row of {self._config.id} is left after cleaning "
                f"({self._removed}); loosen `clean` or `where`"
            )
        self.position += 1
        return document

    def last_place(self) -> str:
        return f"{self._config.id}, row {self._read}"

    def each(self, count: int) -> Iterator[Document]:
        drawn = 0
        for document in islice(_Hub(self.name, self._config)._stream, count):
            yield document
            drawn += 1
        if drawn < count:
            raise _too_few(self.name, drawn, count)

    def look(self, count: int) -> Iterator[tuple[Document | UserError, str]]:
        drawn = list(islice(_Hub(self.name, self._config)._rows(), count))
        if len(drawn) < count:
            raise _too_few(self.name, len(drawn), count)
        for document, place in drawn:
            if isinstance(document, UserError) and not self._lenient:
                raise document
            yield document, place

    def accounting(self) -> dict[str, Any]:
        return {"read": self._read, "removed": dict(self._removed)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "read": self._read,
            "removed": dict(self._removed),
            "dataset": self._dataset.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self._read = int(state["position"]), int(state["read"])
        self._removed.clear()
        self._removed.update(state["removed"])
        self._start_pass(state["dataset"])


def wanted(row: Mapping[str, Any], config: HubSource, name: str) -> bool:
    """Whether a row meets the source's `where`. Raises: UserError where it lacks a column named there."""
    check_columns(config.where, row, name=name, place=config.id)
    return all_met(row, config.where)


def open_hub(config: HubSource, name: str) -> Any:
    """The streaming dataset. Raises UserError naming the id where it cannot be reached."""
    # `datasets` takes seconds to import, and only hub sources need it.
    from datasets import load_dataset  # noqa: PLC0415
    from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415

    what = f"source {name!r}: the hub dataset {config.id!r}"
    instead = "download it and use {type: parquet, path: ...}"
    must_answer(what, instead)
    try:
        return load_dataset(
            config.id,
            config.config,
            split=config.split,
            revision=config.revision,
            streaming=True,
        )
    except (DatasetNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{what} cannot be opened ({reason[:200]}); check the id and the network, or {instead}"
        ) from None


def open_source(config: SourceConfig, *, name: str, seed: int, lenient: bool = False) -> Source:
    """Open a source of a recipe; `name` is its key there, for messages.

    lenient: unreadable rows of a file or a hub set are for `look` to report, and no error when it is opened.
    """
    if isinstance(config, WorldSource):
        return _World(name, config, seed)
    if isinstance(config, PretrainingSource):
        kind = config.category
        return _Generated(name, lambda i: pretraining_at(i, kind=kind, seed=seed))
    if isinstance(config, LongContextSource):
        split, length = config.split, config.num_characters
        return _Generated(
            name, lambda i: long_context(i, split=split, seed=seed, num_characters=length)
        )
    if isinstance(config, HouseSource):
        requests, offered = config.requests, config.offered
        solved = house_conversations(config.split, seed, requests=requests, offered=offered)
        return _Streamed(name, solved)
    if isinstance(config, BfclSource):
        items = bfcl_conversations(config.split, config.categories, config.max_characters)
        return _Listed(name, items, seed)
    if isinstance(config, ReasoningSource):
        items = reasoning_conversations(
            config.tasks, config.split, config.size, seed=seed, system=config.system
        )
        return _Listed(name, items, seed)
    if isinstance(config, HubSource):
        return _Hub(name, config, lenient=lenient)
    return _LocalFile(name, config, seed, lenient=lenient)


__all__ = ["Source", "open_hub", "open_source", "wanted"]
