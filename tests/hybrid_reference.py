"""NemotronH written out plainly in float64: one row, token by token, no fused or chunked parts.

An oracle for what must hold to rounding: transformers' own layers round to float32 inside.
"""

from typing import Any

import torch
from torch.nn import functional


def logits(config: Any, tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """ids [T] -> logits [T, V] in float64."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    x = w["model.embeddings.weight"][ids]
    mixers = {"linear_attention": _mamba, "mlp": _mlp, "full_attention": _attention}
    for number, kind in enumerate(config.layers_block_type):
        prefix = f"model.layers.{number}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        x = x + mixers[kind](config, own, _rms(x, config) * own["norm.weight"])
    return _rms(x, config) * w["model.norm_f.weight"] @ w["lm_head.weight"].T


def _rms(x: torch.Tensor, config: Any) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()


def _mlp(config: Any, w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return (x @ w["mixer.up_proj.weight"].T).relu().square() @ w["mixer.down_proj.weight"].T


def _attention(config: Any, w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    heads, keys, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    q = (x @ w["mixer.q_proj.weight"].T).view(len(x), heads, size)
    k = (x @ w["mixer.k_proj.weight"].T).view(len(x), keys, size)
    v = (x @ w["mixer.v_proj.weight"].T).view(len(x), keys, size)
    out = []
    for head in range(heads):
        shared = head // (heads // keys)
        scores = q[:, head] @ k[:, shared].T / size**0.5
        causal = torch.ones_like(scores, dtype=torch.bool).tril()
        out.append(scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v[:, shared])
    return torch.cat(out, -1) @ w["mixer.o_proj.weight"].T


def _mamba(config: Any, w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    heads, size = config.mamba_num_heads, config.mamba_head_dim
    groups, state = config.n_groups, config.ssm_state_size
    inner = heads * size
    z, xbc, dt = (x @ w["mixer.in_proj.weight"].T).split(
        [inner, inner + 2 * groups * state, heads], -1
    )
    taps = w["mixer.conv1d.weight"].squeeze(1)
    padded = functional.pad(xbc, (0, 0, taps.shape[1] - 1, 0))
    conv = sum(padded[i : i + len(x)] * taps[:, i] for i in range(taps.shape[1]))
    xs, b, c = functional.silu(conv + w["mixer.conv1d.bias"]).split(
        [inner, groups * state, groups * state], -1
    )
    dt = functional.softplus(dt + w["mixer.dt_bias"])
    decay = torch.exp(-torch.exp(w["mixer.A_log"]) * dt)
    per_group = heads // groups
    y = torch.zeros(len(x), heads, size, dtype=torch.float64)
    for head in range(heads):
        g = slice((head // per_group) * state, (head // per_group + 1) * state)
        memory = torch.zeros(size, state, dtype=torch.float64)
        for t in range(len(x)):
            value = xs[t, head * size : (head + 1) * size]
            memory = decay[t, head] * memory + dt[t, head] * torch.outer(value, b[t, g])
            y[t, head] = memory @ c[t, g] + w["mixer.D"][head] * value
    gated = (y.reshape(len(x), inner) * functional.silu(z)).view(len(x), groups, -1)
    normed = _rms(gated, config).reshape(len(x), inner) * w["mixer.norm.weight"]
    return normed @ w["mixer.out_proj.weight"].T
