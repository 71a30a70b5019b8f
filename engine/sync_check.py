"""Proof that an engine samples from the weights it was sent: digests, and what the sender computes.

The sender digests every tensor before it leaves and scores probe tokens itself. The engine refuses
tensors that are not those (nothing is loaded), and scores the same probe tokens with what it loaded.
Of adapters the sender also digests the base they stand on, which the engine has on its disk.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from model.weights import canonical
from workbench.errors import some_of

if TYPE_CHECKING:
    import torch

# Largest difference of a probe token's log-probability, in nats, by the engine's dtype. Clean syncs of
# the miniature in fp32 differ by 6e-6 at most, in bf16 by 0.11 (docs/LOG.md).
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}
# In bf16 at least so many steps of the largest logit: SmolLM2-135M, whose logits reach 34, is 2.5 to 7.6 steps
# from itself in fp32 on the probes of 11 of 12 clean syncs. The twelfth was 43 steps off: such probes are drawn
# again (docs/LOG.md).
PROBE_STEPS = 16
BF16_STEP = 2.0**-8
"""Of a number: bf16 keeps 8 bits of it."""
_PROBE_TOKENS = (12, 6, 4)
PROBES = len(_PROBE_TOKENS)
# A probe that rounding alone moves by more than this share of the limit says little of the engine: it is drawn
# again, at most so many times in all. The rest of the limit is for what the engine rounds otherwise.
_INFORMATIVE = 0.25
PROBE_DRAWS = 8
# The first probe of a model that scans in chunks, or of an engine that keeps prompts by the block, is
# this much longer than one: state crosses it.
_OVER_A_CHUNK = 12
# Longest block of a prefix cache (vLLM's on a CPU); a shorter probe would never be answered from one.
_CACHE_BLOCK = 128
# Sampled after each probe: the engine's one-token path, on states and caches of its own.
PROBE_REPLY_TOKENS = 3


class SyncError(RuntimeError):
    """A weight sync that failed: the engine does not sample from the trainer's policy."""


class Probe(NamedTuple):
    """Tokens and the sender's log-probability of each but the first. largest: the size of the sender's largest
    logit over all probes, where the engine's dtype asks for it.

    Example: Probe([5, 17, 9], [-3.2, -0.7])
    """

    token_ids: list[int]
    logprobs: list[float]
    largest: float = 0.0


class Mark(NamedTuple):
    """A tensor that is not sent: the type in which the sender holds it, and its digest in that type.

    Example: Mark("bfloat16", "9f3c...")
    """

    dtype: str
    digest: str


@dataclass(frozen=True)
class Proof:
    """What weights are checked against. digests: of every tensor that is sent, by its canonical name. score:
    has the sender score the probes, called once while engines load. base: where adapters are sent, all
    that they stand on; None: whole weights are sent.

    Example: Proof({"model.norm_f.weight": "9f3c..."}, lambda: [Probe([5, 17, 9], [-3.2, -0.7])])
    """

    digests: dict[str, str]
    score: Callable[[], list[Probe]]
    base: dict[str, Mark] | None = None


class SyncReport(NamedTuple):
    """What the checks of a sync found; all within tolerance, or it would have been an error.

    probe_error: largest difference from the sender's log-probabilities. decode_error: the same between
    the engine's one-token path and its own whole-prompt path. In nats.
    """

    probe_error: float
    decode_error: float


def tensor_digest(tensor: "torch.Tensor") -> str:
    """128 bits over dtype, shape and every bit of the values."""
    import torch  # noqa: PLC0415 - configuration imports us
    import xxhash  # noqa: PLC0415 - same

    made = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    made.update(flat.view(torch.uint8).numpy())
    return made.hexdigest()


def digests_of(tensors: "Mapping[str, torch.Tensor]") -> dict[str, str]:
    """The digest of each tensor under its canonical name."""
    return {canonical(name): tensor_digest(tensor) for name, tensor in tensors.items()}


def check_arrival(
    digests: Mapping[str, str], arrived: "Sequence[tuple[str, torch.Tensor]]", version: int
) -> None:
    """Raises: SyncError naming the tensors that are missing, unknown, repeated or not as sent."""
    says = _differing(digests, ((canonical(name), tensor) for name, tensor in arrived))
    if says:
        raise SyncError(
            f"weight sync of version {version}: what arrived is not what was sent "
            f"({len(digests)} tensors); {says}. Nothing was loaded"
        )


def check_base(
    base: Mapping[str, Mark],
    held: "Iterable[tuple[str, torch.Tensor]]",
    folder: object,
    version: int,
) -> None:
    """held: of the engine's checkpoint, each in the type of its mark. Raises: SyncError naming the tensors
    of it that are not those of the sender's base."""
    says = _differing({name: mark.digest for name, mark in base.items()}, held)
    if says:
        raise SyncError(
            f"weight sync of version {version}: the adapters stand on another base than {folder}, which the "
            f"engine was given ({len(base)} tensors); {says}. Nothing was loaded"
        )


def _differing(digests: Mapping[str, str], tensors: "Iterable[tuple[str, torch.Tensor]]") -> str:
    """What of the tensors is not as the digests say, in words; "" where all of them are."""
    found: dict[str, str] = {}
    wrong: dict[str, list[str]] = {"missing": [], "unknown": [], "twice": [], "changed": []}
    for name, tensor in tensors:
        if name in found:
            wrong["twice"].append(name)
        found[name] = tensor_digest(tensor)
        if name not in digests:
            wrong["unknown"].append(name)
        elif found[name] != digests[name] and name not in wrong["changed"]:
            wrong["changed"].append(name)
    wrong["missing"] = [name for name in digests if name not in found]
    return "; ".join(f"{what}: {some_of(names)}" for what, names in wrong.items() if names)


def probe_ids(
    vocabulary: int,
    longest: int,
    version: int,
    draws: Sequence[int] = (0,) * PROBES,
    *,
    chunk: int | None = None,
    cached: bool = False,
) -> list[list[int]]:
    """Token ids of the probes, none longer than `longest`. draws: the number of each one's draw. chunk: of
    the model's scan, in tokens. cached: the engine keeps prompts.

    The first is the same at every sync, and so is its second draw, so that a cache which outlives a sync answers
    with old states; the others change, so that in time they meet the whole vocabulary.
    """
    out = []
    first, *others = _PROBE_TOKENS
    crossed = max(chunk or 0, _CACHE_BLOCK if cached else 0)
    for number, size in enumerate([crossed + _OVER_A_CHUNK if crossed else first, *others]):
        seed = f"{number}/{version if number else 0}" + (
            f"/{draws[number]}" if draws[number] else ""
        )
        made = random.Random(seed)
        out.append([made.randrange(vocabulary) for _ in range(min(size, longest))])
    return out


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest absolute difference; infinite where a number is none or one is missing.

    >>> largest_difference([-1.0, -2.0], [-1.0, -2.5])
    0.5
    """
    if len(found) != len(expected):
        return float("inf")
    gaps = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)


def probe_limit(dtype: str, largest: float) -> float:
    """Nats that a probe may be off. largest: the size of the largest logit, of which bf16 knows no more than a
    256th: a logit of 32 is off by 0.06 at every rounding, and a model rounds hundreds of times.

    >>> probe_limit("bfloat16", 2.0), probe_limit("bfloat16", 32.0), probe_limit("float32", 32.0)
    (0.3, 2.0, 0.001)
    """
    limit = PROBE_TOLERANCE[dtype]
    if dtype != "bfloat16" or not 0 < largest < float("inf"):
        return limit
    return max(limit, PROBE_STEPS * BF16_STEP * largest)


def is_informative(moved: float, largest: float) -> bool:
    """Whether a probe that rounding alone moves by so many nats tells an engine in bf16 from a wrong one.

    >>> is_informative(0.5, 32.0), is_informative(0.6, 32.0), is_informative(float("nan"), 32.0)
    (True, False, False)
    """
    # Of small logits, which have the floor of the limit, half: a step of bf16 is a quarter of it.
    least = PROBE_TOLERANCE["bfloat16"] / 2
    return moved <= max(_INFORMATIVE * probe_limit("bfloat16", largest), least)


def check_probes(report: SyncReport, dtype: str, version: int, largest: float = 0.0) -> None:
    """largest: see `probe_limit`. Raises: SyncError where the engine's probabilities are not the sender's."""
    limit = probe_limit(dtype, largest)
    says = {
        "the engine's log-probabilities of probe tokens are off by": report.probe_error,
        "tokens sampled after the probes are off from the engine's own scoring of them by": (
            report.decode_error
        ),
    }
    parts = [f"{what} {error:.3g} nats" for what, error in says.items() if not error <= limit]
    if parts:
        raise SyncError(
            f"weight sync of version {version}: {'; '.join(parts)} (limit {limit:g} in {dtype}). "
            "Every tensor arrived and was read back as sent, so look at caches, states and kernels"
        )
