"""Pruning: dead units leave without a trace, planted orders are found, sizes are the formula's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.hybrid import Hybrid, build_config, load_model, save_model
from model.layers.layout import DocumentLayout
from model.packed import Rows
from model.presets import shape
from model.sizes import parameters
from pretrain.compress.chance import chance_difference
from pretrain.compress.config import PruneConfig, TargetConfig
from pretrain.compress.depth import Removal, removal_errors, remove_layers
from pretrain.compress.importance import width_scores
from pretrain.compress.plan import plan_prune
from pretrain.compress.prune import choose, choose_mamba, narrow, without_layers
from pretrain.compress.target import check_target, shape_of
from pretrain.rows import document_labels
from tests.hybrid_reference import logits as reference
from workbench.errors import UserError
from workbench.recipe import load

VOCAB = 48
SIZES: dict[str, Any] = {
    "pattern": "M-*M-M",
    "hidden_size": 24,
    "intermediate_size": 40,
    "mamba_num_heads": 8,
    "mamba_head_dim": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCAB,
    "n_groups": 2,
    "ssm_state_size": 8,
    "dtype": "float32",
    # The norms' epsilon is a constant beside a mean over channels, so it cannot scale with them.
    "layer_norm_epsilon": 1e-30,
}
H, F, N, P = 24, 40, 8, 6
INNER = N * P
DEAD_HIDDEN = [0, 5, 11, 23]
DEAD_FFN = [1, 2, 17, 39]
DEAD_HEADS = [2, 7]  # one in each group of four
DEAD_CHANNELS = [0, 4]
BLEND = {
    "sources": {"mix": {"type": "world", "domain": "mix"}},
    "phases": [{"until": 1.0, "weights": {"mix": 1}}],
}
IDS = torch.randint(3, VOCAB, (17,), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def model() -> Hybrid:
    """Random in every tensor, norms, biases and decays too."""
    made = load_model(build_config(**SIZES), seed=1).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            noise = torch.randn(tensor.shape, generator=draw)
            if "norm" in name or name.endswith(".D"):
                tensor.copy_(1 + 0.3 * noise)
            elif name.endswith(("A_log", "dt_bias")):
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(0.3 * noise)
    return made


def rows(seed: int = 0, count: int = 6, length: int = 40) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (count, length), generator=draw)
    seq_idx = torch.zeros(count, length, dtype=torch.int32)
    seq_idx[:, 15:] = 1
    return Rows(ids, document_labels(ids, seq_idx), seq_idx)


def batches() -> list[Rows]:
    return [rows(0), rows(1, count=3)]


def x_rows(heads: list[int], channels: list[int]) -> list[int]:
    return [h * P + c for h in heads for c in channels]


@torch.no_grad()
def kill(model: Hybrid, what: str) -> None:
    """Zero the weights of the dead units of one kind of width."""
    if what == "hidden_size":
        model.model.embeddings.weight[:, DEAD_HIDDEN] = 0
    for block in model.model.layers:
        mixer = block.mixer
        if what == "hidden_size":
            out = {"mlp": "down_proj", "full_attention": "o_proj"}.get(block.block_type, "out_proj")
            getattr(mixer, out).weight[DEAD_HIDDEN] = 0
        if what == "ffn" and block.block_type == "mlp":
            mixer.up_proj.weight[DEAD_FFN] = 0
        if block.block_type == "linear_attention" and what.startswith("mamba"):
            heads = DEAD_HEADS if what == "mamba_heads" else list(range(N))
            channels = DEAD_CHANNELS if what == "mamba_head_dim" else list(range(P))
            places = x_rows(heads, channels)
            mixer.in_proj.weight[[INNER + i for i in places]] = 0
            mixer.conv1d.bias[places] = 0


TARGETS = {
    "hidden_size": H - len(DEAD_HIDDEN),
    "ffn": F - len(DEAD_FFN),
    "mamba_heads": N - len(DEAD_HEADS),
    "mamba_head_dim": P - len(DEAD_CHANNELS),
}


def cut(model: Hybrid, rescale: bool = True, **sizes: int) -> Hybrid:
    target = TargetConfig(**sizes)
    s = shape_of(model.config)
    check_target(target, s, ["M", "-"])
    scores = width_scores(model, batches())
    return narrow(model, choose(scores, s, target), target, scores if rescale else None).eval()


def same_logits(a: Hybrid, b: Hybrid) -> None:
    want = reference(a.config, a.state_dict(), IDS)
    got = reference(b.config, b.state_dict(), IDS)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_the_reference_is_the_model(model: Hybrid) -> None:
    """[derived] the plain float64 model against ours and against transformers' own layers."""
    want = reference(model.config, model.state_dict(), IDS)
    got = model(IDS[None], use_cache=False).logits[0]
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("names", [*([n] for n in TARGETS), list(TARGETS)], ids=str)
def test_dead_units_leave_without_a_trace(model: Hybrid, names: list[str]) -> None:
    """[derived] Each kind of width alone, and all of them: equal logits, and the formula's sizes."""
    model.double()
    for name in names:
        kill(model, name)
    small = cut(model, **{name: TARGETS[name] for name in names})
    assert next(small.parameters()).dtype == torch.float64
    same_logits(model, small)
    s = shape_of(small.config)
    for name, field in (
        ("hidden_size", "hidden_size"), ("ffn", "intermediate_size"),
        ("mamba_heads", "mamba_num_heads"), ("mamba_head_dim", "mamba_head_dim"),
    ):  # fmt: skip
        assert getattr(s, field) == (TARGETS[name] if name in names else SIZES[field])
    assert sum(p.numel() for p in small.parameters()) == parameters(s)


def test_without_rescaling_dead_channels_move_the_norms(model: Hybrid) -> None:
    """[derived] 24 channels to 20: what is left grows by sqrt(20 / 24) of 1, and logits with it."""
    kill(model, "hidden_size")
    small = cut(model, rescale=False, hidden_size=20)
    a = reference(model.config, model.state_dict(), IDS)
    b = reference(small.config, small.state_dict(), IDS)
    assert (a - b).abs().max() > 1e-2


def test_kept_channels_keep_their_size(model: Hybrid) -> None:
    """[derived] Channels of one size for every token: the first norm's output must not change."""
    draw = torch.Generator().manual_seed(3)
    sizes = torch.rand(H, generator=draw) + 0.1
    signs = torch.randint(0, 2, (VOCAB, H), generator=draw) * 2 - 1
    with torch.no_grad():
        model.model.embeddings.weight.copy_(sizes * signs)
    scores = width_scores(model, batches())
    target = TargetConfig(hidden_size=10)
    kept = choose(scores, shape_of(model.config), target)
    small = narrow(model, kept, target, scores)
    first = [m.model.layers[0].norm(m.model.embeddings(IDS)) for m in (model, small)]
    torch.testing.assert_close(first[1], first[0][:, kept.hidden], atol=1e-6, rtol=1e-5)


def test_a_layer_without_output_goes_first_and_leaves_no_trace(model: Hybrid) -> None:
    model.double()
    with torch.no_grad():
        model.model.layers[3].mixer.out_proj.weight.zero_()
    seen: list[Removal] = []
    kept = remove_layers(
        model, batches(), count=1, candidates=[0, 1, 3, 4, 5], on_removal=seen.append
    )
    assert kept == [0, 1, 2, 4, 5]
    assert (seen[0].layer, seen[0].mse) == (3, 0.0)
    assert min(error for i, error in seen[0].errors.items() if i != 3) > 1e-6
    small = without_layers(model, kept)
    same_logits(model, small)
    assert shape_of(small.config).pattern == "M-*-M"
    assert sum(p.numel() for p in small.parameters()) == parameters(shape_of(small.config))


def test_layers_go_by_the_error_of_the_logits_against_the_original(model: Hybrid) -> None:
    """Each round's errors against brute force: a model built without the layer, whole logits."""
    pattern = shape_of(model.config).pattern
    candidates = [i for i, letter in enumerate(pattern) if letter in "M-"]
    seen: list[Removal] = []
    kept = remove_layers(model, batches(), count=3, candidates=candidates, on_removal=seen.append)

    def logits(m: Hybrid, part: Rows) -> torch.Tensor:
        with torch.no_grad():
            return m(part.input_ids, seq_idx=part.seq_idx).logits.double()

    whole = [logits(model, part) for part in batches()]
    left = list(range(len(pattern)))
    for removal in seen:
        errors = {}
        for i in left:
            if pattern[i] == "*":
                continue
            small = without_layers(model, [j for j in left if j != i]).eval()
            squares = [
                (logits(small, b) - w).square().flatten()
                for b, w in zip(batches(), whole, strict=True)
            ]
            errors[i] = float(torch.cat(squares).mean())
        assert removal.errors == pytest.approx(errors, rel=1e-4)
        assert removal.layer == min(errors, key=lambda i: errors[i])
        left.remove(removal.layer)
    assert kept == left
    assert [pattern[i] for i in kept].count("*") == 1
    # The scoring leaves the model whole.
    assert len(model.model.layers) == 6
    assert torch.equal(logits(model, batches()[0]), whole[0])


def test_a_stopped_depth_pruning_continues_as_if_it_had_not(model: Hybrid) -> None:
    seen: list[Removal] = []
    candidates = [0, 1, 3, 4, 5]
    whole = remove_layers(model, batches(), count=3, candidates=candidates, on_removal=seen.append)
    first = [removal.layer for removal in seen[:2]]
    assert whole == remove_layers(model, batches(), count=3, candidates=candidates, removed=first)


def test_planted_orders_are_found(model: Hybrid) -> None:
    """[derived] Units that see the same input, each larger than the next by a planted factor."""
    draw = torch.Generator().manual_seed(9)
    neurons, channels, heads = (torch.randperm(n, generator=draw) for n in (F, P, N))
    hidden = torch.randperm(H, generator=draw)
    with torch.no_grad():
        for block in model.model.layers:
            block.norm.weight.copy_(100.0 * (1 + hidden) / block.norm.weight.new_tensor(H))
            if block.block_type == "mlp":
                up = block.mixer.up_proj.weight
                up.copy_(up[0] * (1 + neurons[:, None]))
            elif block.block_type == "linear_attention":
                x = block.mixer.in_proj.weight[INNER : 2 * INNER]
                scale = (1.0 + heads[:, None]) * (1.0 + channels[None, :])
                x.copy_(x[0] * scale.flatten()[:, None])
        # Channels of the stream of one size, so that the norms' weights decide.
        model.model.embeddings.weight.copy_(torch.sign(model.model.embeddings.weight))
        for block in model.model.layers:
            out = {"mlp": "down_proj", "full_attention": "o_proj"}.get(block.block_type, "out_proj")
            getattr(block.mixer, out).weight.zero_()
    scores = width_scores(model, batches())
    s = shape_of(model.config)
    target = TargetConfig(hidden_size=7, ffn=11, mamba_heads=4, mamba_head_dim=2)
    kept = choose(scores, s, target)

    def largest(order: torch.Tensor, count: int) -> list[int]:
        return sorted(order.argsort(descending=True)[:count].tolist())

    assert kept.hidden.tolist() == largest(hidden, 7)
    assert set(kept.ffn) == {1, 4}
    assert all(f.tolist() == largest(neurons, 11) for f in kept.ffn.values())
    in_groups = largest(heads[:4], 2) + [4 + i for i in largest(heads[4:], 2)]
    assert set(kept.mamba) == {0, 3, 5}
    for m in kept.mamba.values():
        assert m.channels.tolist() == largest(channels, 2)
        assert m.heads.tolist() == in_groups


def test_mamba_scores_are_nested_and_grouped() -> None:
    """[derived] by hand. ||s[:, d]||: 7.30, 5.04, 7.35, so channels 0 and 2 stay.

    On those the heads of group 0 have 4.12 and 2.24 (were channel 1 counted, 4.12 and 5.48), those of
    group 1 have 6.00 and 7.02 (were groups not minded, both would stay).
    """
    scores = torch.tensor([[4.0, 0.0, 1.0], [1.0, 5.0, 2.0], [6.0, 0.0, 0.1], [0.5, 0.6, 7.0]])
    kept = choose_mamba(scores, groups=2, heads=2, channels=2)
    assert kept.channels.tolist() == [0, 2]
    assert kept.heads.tolist() == [0, 3]
    every = choose_mamba(scores, groups=2, heads=4, channels=3)
    assert every.heads.tolist() == [0, 1, 2, 3]


def test_scores_are_means_over_tokens_and_l2_over_rows(model: Hybrid) -> None:
    """[derived] A neuron by hand: mean over a row's tokens of relu(u)^2, root of squares over rows."""
    scores = width_scores(model, batches())
    means = []
    for part in batches():
        with torch.no_grad():
            stream = model.model.embeddings(part.input_ids)
            layout = DocumentLayout(part.seq_idx)
            first = model.model.layers[0](stream, document_layout=layout)
            up = model.model.layers[1].norm(first) @ model.model.layers[1].mixer.up_proj.weight.T
        means.append(up.relu().square().mean(1))
    want = torch.cat(means).double().square().sum(0).sqrt()
    torch.testing.assert_close(scores.ffn[1], want, rtol=1e-5, atol=1e-8)


def test_channels_are_scored_on_the_layers_norms_alone(model: Hybrid) -> None:
    """The six norms in front of the layers, each aggregated, then added; not the last norm."""
    part = rows(0)
    with torch.no_grad():
        out = model(part.input_ids, seq_idx=part.seq_idx, output_hidden_states=True)
    norms = [block.norm for block in model.model.layers]
    want = sum(
        norm(stream).abs().mean(1).double().square().sum(0).sqrt()
        for norm, stream in zip(norms, out.hidden_states, strict=False)
    )
    torch.testing.assert_close(width_scores(model, [part]).hidden, want, rtol=1e-5, atol=1e-7)


def test_the_checkpoint_is_plain(model: Hybrid, tmp_path: Path) -> None:
    """transformers alone loads it and gives its logits."""
    small = cut(model, hidden_size=18, ffn=24, mamba_heads=6, mamba_head_dim=4)
    small = without_layers(small, [0, 1, 2, 4, 5]).eval()
    save_model(small, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    assert type(plain.model.layers[0].mixer).__name__ == "NemotronHMamba2Mixer"
    got, want = plain(IDS[None], use_cache=False).logits, small(IDS[None], use_cache=False).logits
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    again = load_model(tmp_path / "model")
    assert torch.equal(again.eval()(IDS[None], use_cache=False).logits, want)
    s = shape_of(plain.config)
    assert (s.pattern, s.mamba_num_heads, s.mamba_head_dim) == ("M-*-M", 6, 4)
    assert sum(p.numel() for p in plain.parameters()) == parameters(s)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"mamba_heads": 7}, "not a multiple of the 2 groups"),
        ({"mamba_heads": 10}, r"mamba_heads 10 is more than the model has \(8\)"),
        ({"hidden_size": 25}, r"hidden_size 25 is more than the model has \(24\)"),
        ({"ffn": 41}, r"ffn 41 is more than the model has \(40\)"),
        ({"mamba_head_dim": 7}, r"mamba_head_dim 7 is more than the model has \(6\)"),
        ({"layers": 7}, r"layers 7 is more than the model has \(6\)"),
    ],
)
def test_an_impossible_target_is_one_line(target: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_target(TargetConfig(**target), shape(**SIZES), ["M", "-"])
    assert "\n" not in str(caught.value)


def test_layers_that_stay_are_counted() -> None:
    s = shape(**SIZES | {"pattern": "M*-*M*"})
    check_target(TargetConfig(layers=3), s, ["M", "-"])
    with pytest.raises(UserError, match="fewer than the 3 layers that stay"):
        check_target(TargetConfig(layers=2), s, ["M", "-"])
    check_target(TargetConfig(layers=2), s, ["M", "-", "*"])
    with pytest.raises(ValueError, match="no size to prune to"):
        TargetConfig()


def test_other_models_are_refused() -> None:
    from transformers import LlamaConfig

    with pytest.raises(UserError, match="NemotronH hybrids"):
        shape_of(LlamaConfig())


def test_errors_do_not_depend_on_microbatches(model: Hybrid) -> None:
    whole = rows(0)
    parts = [Rows(*(t[i : i + 2] for t in whole)) for i in (0, 2, 4)]
    kept = list(range(6))
    a = removal_errors(model, [whole], kept, [0, 4])
    b = removal_errors(model, parts, kept, [0, 4])
    assert a == pytest.approx(b, rel=1e-5)
    one, many = width_scores(model, [whole]), width_scores(model, parts)
    torch.testing.assert_close(one.hidden, many.hidden, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.gated_size[3], many.gated_size[3], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.prune-depth.target.layers=1", "fewer than the 2 layers that stay"),
        # Behind two distillations and a depth pruning: the recipe says what there will be.
        ("stages.prune-width.target.mamba_heads=5", "not a multiple of the 2 groups"),
        ("stages.prune-width.target.hidden_size=256", r"more than the model has \(128\)"),
        ("stages.prune-width.target.layers=7", r"more than the model has \(6\)"),
    ],
)
def test_an_impossible_target_is_found_before_anything_runs(override: str, says: str) -> None:
    recipe = load("recipes/miniature-compress.yaml", [override])
    with pytest.raises(UserError, match=says):
        for stage in recipe.stages.values():
            if isinstance(stage, PruneConfig):
                plan_prune(stage, recipe)


def test_what_ends_a_reply_is_kept(model: Hybrid) -> None:
    model.generation_config.eos_token_id = [2, 7]
    assert without_layers(model, [0, 1, 2, 4, 5]).generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize("what", [*TARGETS, "layers"])
def test_importance_is_compared_with_choices_at_random(model: Hybrid, what: str) -> None:
    """Dead units cost nothing to leave out, and a random choice takes live ones."""
    count = len(SIZES["pattern"]) - 1 if what == "layers" else TARGETS[what]
    if what == "layers":
        with torch.no_grad():
            model.model.layers[3].mixer.out_proj.weight.zero_()
    else:
        kill(model, what)
    target = TargetConfig(**{what: count})
    data = {"kind": "prune", "needs": ["a"], "target": {what: count}, "blend": BLEND}
    config = PruneConfig.read({**data, "random_draws": 3, "held_out": BLEND}, where="prune")
    chosen = (
        without_layers(model, [0, 1, 2, 4, 5]) if what == "layers" else cut(model, **{what: count})
    )
    found, draws = chance_difference(
        model, chosen.eval(), target, config, batches(), batches(), seed=1
    )
    assert found.after.value < 1e-6 < found.before.value
    assert found.before.value == pytest.approx(sum(draws) / 3) and len(set(draws)) > 1
    again = chance_difference(model, chosen, target, config, batches(), batches(), seed=1)[1]
    assert again == draws


def test_draws_and_the_rows_to_compare_on_come_together() -> None:
    data = {"kind": "prune", "needs": ["a"], "target": {"ffn": 8}, "blend": BLEND}
    for more in ({"random_draws": 2}, {"held_out": BLEND}):
        with pytest.raises(UserError, match="`random_draws` and `held_out` together"):
            PruneConfig.read({**data, **more}, where="prune")
