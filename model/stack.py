"""Shapes of models whose layers are made of several parts: attention, Mamba-2, feed-forward, experts.

A layer is the tuple of its parts; what a model costs is what its parts cost. `model.families` reads the
parts from a checkpoint's configuration. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SCAN_CHUNK = 128  # tokens; inside a chunk the scan is quadratic, as mamba-ssm computes it


class Linear(NamedTuple):
    """A matrix product. adapted: LoRA adapts it. product: a base in 4 bits and FP8 have it narrow."""

    inputs: int
    outputs: int
    bias: bool = False
    adapted: bool = True
    product: bool = True

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + self.bias * self.outputs


class Products(NamedTuple):
    """The matrix products of one layer: how many, and their parameters together."""

    number: int
    parameters: int


class Held(NamedTuple):
    """How a training holds values: bytes of a computed one and of the residual stream's, and the tokens of a
    document, whose scores attention may keep."""

    computed: int
    stream: int
    document: int


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """What every part answers; here that of a part without anything. owned: its parameters are not another layer's."""

    owned: bool = True

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its linear layers."""
        return ()

    @property
    def others(self) -> int:
        """Parameters outside linear layers."""
        return 0

    @property
    def idle(self) -> int:
        """Parameters that a token does not pass."""
        return 0

    def mixing(self, document_tokens: float) -> float:
        """FLOPs of a token beside linear layers, mean over a document."""
        return 0

    def kept(self, held: Held) -> float:
        """Bytes a token that its backward pass needs."""
        return 0

    def cached(self, tokens: int) -> int:
        """Values of keys and values of one sequence."""
        return 0

    def state(self, ssm_bytes: int, conv_bytes: int) -> int:
        """Bytes of one sequence's recurrent state."""
        return 0

    @property
    def parameters(self) -> int:
        """Its own; 0 where another layer owns them."""
        return self.owned * (sum(linear.parameters for linear in self.linears) + self.others)


@dataclass(frozen=True, kw_only=True)
class Norm(LayerPart):
    """An RMSNorm. Kept: its input, the normed value and the output."""

    width: int

    @property
    def others(self) -> int:
        return self.width

    def kept(self, held: Held) -> float:
        return self.width * (2 * held.stream + held.computed)


@dataclass(frozen=True, kw_only=True)
class Between(LayerPart):
    """Linear layers one after the other that belong to the family (Zamba2's), not to LoRA. Kept: what goes into
    each."""

    widths: tuple[int, ...]

    @property
    def linears(self) -> tuple[Linear, ...]:
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return tuple(Linear(a, b, adapted=False, product=False) for a, b in pairs)

    def kept(self, held: Held) -> float:
        return held.computed * sum(self.widths[:-1])


@dataclass(frozen=True, kw_only=True)
class Attention(LayerPart):
    """Queries, keys, values and output. qk_norm: "head" or "all", as model.decoder has it. sinks: a logit a head,
    and with it attention that keeps every score (transformers has no other for it). Kept: queries, keys and values
    as attention takes them, its output twice."""

    inputs: int
    outputs: int
    heads: int
    keys: int
    head_dim: int
    bias: bool = False
    qk_norm: str = ""
    sinks: bool = False
    window: int | None = None
    scaled: int = 0
    """Values of a scaled copy of the input that is kept beside (Falcon-H1)."""

    @property
    def widths(self) -> tuple[int, int]:
        """Of all queries, of all keys."""
        return self.heads * self.head_dim, self.keys * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        q, k = self.widths
        into = [Linear(self.inputs, width, self.bias) for width in (q, k, k)]
        return (*into, Linear(q, self.outputs, self.bias))

    @property
    def others(self) -> int:
        norms = {"": 0, "head": 2 * self.head_dim, "all": sum(self.widths)}[self.qk_norm]
        return norms + self.heads * self.sinks

    def mixing(self, document_tokens: float) -> float:
        seen = min(document_tokens / 2, self.window or document_tokens)
        return 4 * seen * self.widths[0]

    def kept(self, held: Held) -> float:
        q, k = self.widths
        out = held.computed * (5 * q + self.scaled) + 4 * self.heads
        if self.qk_norm:
            out += 2 * (q + k) * held.stream
        return out + self.sinks * held.computed * self.heads * (held.document + 1)

    def cached(self, tokens: int) -> int:
        return 2 * self.widths[1] * min(tokens, self.window or tokens)


@dataclass(frozen=True, kw_only=True)
class FeedForward(LayerPart):
    """Gate, up and down. fused: gate and up are one linear layer. Kept: gate, its activation, up and their product."""

    inputs: int
    width: int
    bias: bool = False
    fused: bool = False

    @property
    def linears(self) -> tuple[Linear, ...]:
        into = [2 * self.width] if self.fused else [self.width, self.width]
        first = [Linear(self.inputs, width, self.bias) for width in into]
        return (*first, Linear(self.width, self.inputs, self.bias))

    def kept(self, held: Held) -> float:
        return 4 * self.width * held.computed


@dataclass(frozen=True, kw_only=True)
class Experts(LayerPart):
    """`number` gated feed-forwards of which a token takes `chosen`, and the router. They are one tensor, which no
    adapter reaches. Kept, of each chosen one: its input and output, and what `FeedForward` keeps (clamped: that and
    the limited gate, its sigmoid, the limited up); and two numbers of the router for each expert."""

    inputs: int
    width: int
    number: int
    chosen: int
    bias: bool = False
    clamped: bool = False

    @property
    def _one(self) -> int:
        biases = (2 * self.width + self.inputs) * self.bias
        return 3 * self.inputs * self.width + biases

    @property
    def others(self) -> int:
        return self.number * (self._one + self.inputs + self.bias)

    @property
    def idle(self) -> int:
        return (self.number - self.chosen) * self._one

    def mixing(self, document_tokens: float) -> float:
        return 2 * self.inputs * (3 * self.chosen * self.width + self.number)

    def kept(self, held: Held) -> float:
        values = 2 * self.inputs + (7 if self.clamped else 4) * self.width
        return held.computed * self.chosen * values + 8 * self.number


@dataclass(frozen=True, kw_only=True)
class Mamba(LayerPart):
    """A Mamba-2 layer without its input's norm. Kept: conv's input, the sum before SiLU and the result, in fp32; dt;
    the gate; the scan's output in fp32; out_proj's input; a state once a chunk."""

    inputs: int
    heads: int
    head_dim: int
    groups: int
    states: int
    taps: int
    in_bias: bool = False
    out_bias: bool = False
    conv_bias: bool = True
    normed: bool = True
    scaled: int = 0
    """Values of a scaled copy of the input that is kept beside (Falcon-H1)."""

    @property
    def inner(self) -> int:
        """Heads x head_dim."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.states

    @property
    def linears(self) -> tuple[Linear, ...]:
        width = self.inner + self.channels + self.heads
        # The fused kernel reads out_proj's weight itself: no adapter (model.lora).
        last = Linear(self.inner, self.inputs, self.out_bias, adapted=False)
        return (Linear(self.inputs, width, self.in_bias), last)

    @property
    def others(self) -> int:
        conv = self.channels * (self.taps + self.conv_bias)
        return conv + 3 * self.heads + self.inner * self.normed

    def mixing(self, document_tokens: float) -> float:
        chunk = min(SCAN_CHUNK, document_tokens)
        scan = 2 * chunk * (self.groups * self.states + self.inner)
        return scan + 4 * self.inner * self.states + 2 * self.taps * self.channels

    def kept(self, held: Held) -> float:
        b = held.computed
        widths = self.inner * (b + 4 + b) + 12 * self.channels + 4 * self.heads + b * self.scaled
        return widths + 4 * self.inner * self.states / SCAN_CHUNK

    def state(self, ssm_bytes: int, conv_bytes: int) -> int:
        return self.inner * self.states * ssm_bytes + self.channels * (self.taps - 1) * conv_bytes


Layer = tuple[LayerPart, ...]


@dataclass(frozen=True)
class StackShape:
    """Layers, an embedding, a last norm and a head, which may be the embedding.

    >>> norm, mlp = Norm(width=8), FeedForward(inputs=8, width=16)
    >>> StackShape("one", 8, 10, True, ((norm, mlp),)).parameters
    480
    """

    family: str
    hidden_size: int
    vocab_size: int
    tied: bool
    stack: tuple[Layer, ...]

    @property
    def layers(self) -> int:
        """How many."""
        return len(self.stack)

    def _parts(self) -> Iterator[LayerPart]:
        return (part for layer in self.stack for part in layer)

    @property
    def layer_parameters(self) -> list[int]:
        """Of each layer."""
        return [sum(part.parameters for part in layer) for layer in self.stack]

    @property
    def output_parameters(self) -> int:
        """Embedding, head and last norm."""
        return (2 - self.tied) * self.vocab_size * self.hidden_size + self.hidden_size

    @property
    def parameters(self) -> int:
        """All of them; what layers share, and a tied head, count once."""
        return sum(self.layer_parameters) + self.output_parameters

    @property
    def idle_parameters(self) -> int:
        """Those that a token does not pass: of experts. Of an embedding it reads one row."""
        if not (experts := sum(part.idle for part in self._parts())):
            return 0
        words = 0 if self.tied else (self.vocab_size - 1) * self.hidden_size
        return experts + words

    @property
    def by_kind(self) -> tuple[int, int, int, int]:
        """Parameters of Mamba, of feed-forwards and experts, of attention, of the output. Norms, and what is between,
        count with the layer's attention, or else with its Mamba."""
        mamba, mlp, attention = 0, 0, 0
        for layer in self.stack:
            attends = any(isinstance(part, Attention) for part in layer)
            for part in layer:
                if isinstance(part, FeedForward | Experts):
                    mlp += part.parameters
                elif isinstance(part, Mamba) or not attends:
                    mamba += part.parameters
                else:
                    attention += part.parameters
        return mamba, mlp, attention, self.output_parameters

    @property
    def products(self) -> list[Products]:
        """Of every layer, in order; those that another layer owns are counted there."""
        layers = [
            [x for part in layer if part.owned for x in part.linears if x.product]
            for layer in self.stack
        ]
        return [Products(len(of), sum(x.inputs * x.outputs for x in of)) for of in layers]

    @property
    def largest_matrix(self) -> int:
        """Values of the largest linear layer of a layer."""
        return max(x.inputs * x.outputs for part in self._parts() for x in part.linears)

    def lora_parameters(self, rank: int) -> int:
        """Adapters of model.lora. A shared layer has them wherever it stands."""
        adapted = [x for part in self._parts() for x in part.linears if x.adapted]
        return rank * sum(x.inputs + x.outputs for x in adapted)

    def forward_flops(self, document_tokens: float) -> float:
        """FLOPs of one token's forward pass, mean over a document; a shared layer counts wherever it stands."""
        head = 2 * self.vocab_size * self.hidden_size
        linears = sum(x.inputs * x.outputs for part in self._parts() for x in part.linears)
        return head + 2 * linears + sum(part.mixing(document_tokens) for part in self._parts())

    def layers_activation_bytes(self, held: Held) -> list[int]:
        """Bytes a token that each layer keeps."""
        return [round(sum(part.kept(held) for part in layer)) for layer in self.stack]

    def kv_cache_bytes(self, tokens: int, bytes_a_value: int) -> int:
        """Keys and values of one sequence."""
        return bytes_a_value * sum(part.cached(tokens) for part in self._parts())

    def state_bytes(self, ssm_bytes: int, conv_bytes: int) -> int:
        """Recurrent state of one sequence."""
        return sum(part.state(ssm_bytes, conv_bytes) for part in self._parts())
