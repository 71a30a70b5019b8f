"""Experts' load and the router's loss, against transformers' own function and by hand."""

import math
import threading
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from model.hybrid import load_model
from model.layers.experts import ByDocument
from model.layers.routing import Routed, Routing, balance_loss
from sft.config import SftConfig
from tests import tiny
from tests.unit.model.test_families import LENGTHS, config_of, gradients, numbers_of
from workbench.errors import UserError

FAMILIES = ["nemotron, experts", "granite, experts", "mixtral", "olmoe", "qwen3 experts"]
IDS = torch.randint(3, 97, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))


def custom_loss(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The loss of one layer on a row: transformers' function, a document at a time, by their tokens."""
    total = torch.zeros(())
    for part in inputs.split(LENGTHS, dim=1):
        router = getattr(layer, "gate", None) or layer.router
        routed = Routed.read(router.forward(part.reshape(-1, part.shape[-1])))
        logits = routed.logits.float()
        if type(router).__name__.startswith("NemotronH"):  # a softmax of these has its shares
            logits = functional.logsigmoid(logits)
        theirs = load_balancing_loss_func((logits,), logits.shape[-1], routed.chosen.shape[-1])
        total = total + theirs * (part.shape[1] / sum(LENGTHS))
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_is_the_models_own_and_the_losss(name: str) -> None:
    """Against autograd on transformers' loss of what each layer was given [derived]."""
    model = load_model(config_of(name), seed=0).train()
    layers = [m for m in model.modules() if isinstance(m, ByDocument)]
    given: list[torch.Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda m, args: given.append(args[0])) for m in layers]
    out = model(input_ids=IDS, seq_idx=numbers_of(LENGTHS), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    losses = [custom_loss(layer, inputs) for layer, inputs in zip(layers, given, strict=True)]
    mean = torch.stack(losses).mean()
    wanted = gradients(model, out.square().mean() + 0.5 / 4 * mean)
    plain = gradients(
        model,
        model(input_ids=IDS, seq_idx=numbers_of(LENGTHS), use_cache=False).logits.square().mean(),
    )
    routing = Routing(model, coefficient=0.5)
    routing.begin(4 * sum(LENGTHS))  # a step of four such rows
    again = model(input_ids=IDS, seq_idx=numbers_of(LENGTHS), use_cache=False).logits
    assert torch.equal(again, out)
    found = gradients(model, again.square().mean())
    for parameter, expected in wanted.items():
        torch.testing.assert_close(found[parameter], expected, atol=1e-6, rtol=1e-4, msg=parameter)
    assert any(not torch.allclose(found[n], g, atol=1e-6) for n, g in plain.items())
    assert routing.metrics()["router_loss"] == pytest.approx(float(mean.detach()), rel=1e-5)
    assert routing.metrics() == {}


def routed(logits: list[list[float]], chosen: list[list[int]]) -> Routed:
    picked = torch.tensor(chosen)
    return Routed(torch.ones(picked.shape), torch.tensor(logits), picked, False)


def test_the_loss_by_hand() -> None:
    """[derived] Even over 4 experts, 1 each: 4 x 4 x 1/4 x 1/4. All on one of 2, sure of it: 2 x 1 x 1."""
    even = routed([[0.0] * 4] * 4, [[0], [1], [2], [3]])
    assert float(balance_loss(even, False)) == pytest.approx(1.0)
    one = routed([[50.0, -50.0]] * 3, [[0]] * 3)
    assert float(balance_loss(one, False)) == pytest.approx(2.0)
    # Sigmoids of log 3 and log(1/3) are 3/4 and 1/4: 2 x (1 x 3/4 + 0 x 1/4).
    sure = routed([[math.log(3), -math.log(3)]], [[0]])
    assert float(balance_loss(sure, True)) == pytest.approx(1.5)


def test_load_is_counted_in_training_alone() -> None:
    model = load_model(config_of("nemotron, experts"), seed=0)
    routing = Routing(model)
    call: dict[str, Any] = {"input_ids": IDS, "seq_idx": numbers_of(LENGTHS), "use_cache": False}
    model.eval()(**call)
    with torch.no_grad():
        model.train()(**call)
    assert routing.metrics() == {}
    layers = [m for m in model.modules() if isinstance(m, ByDocument)]
    with torch.no_grad():  # two of four experts for every token: twice the mean, log 2 of log 4
        for layer in layers:
            layer.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))  # type: ignore[union-attr,operator]
    model.train()(**call)
    found = routing.metrics()
    assert {k: v for k, v in found.items() if k != "router_loss"} == pytest.approx(
        {f"experts/{n}_{what}": v for n in (1, 3) for what, v in (("peak", 2.0), ("entropy", 0.5))}
    )


def test_rows_side_by_side_keep_their_own_documents() -> None:
    """Each of two threads stops between its block and its experts until the other is there too."""
    model = load_model(config_of("mixtral"), seed=0).eval()
    rows = [numbers_of(LENGTHS), numbers_of(tuple(reversed(LENGTHS)))]
    with torch.no_grad():
        wanted = [model(input_ids=IDS, seq_idx=row, use_cache=False).logits for row in rows]
    meet, found = threading.Barrier(2, timeout=60), dict[int, torch.Tensor]()
    seen = dict[int, list[int]]()
    for layer in (m for m in model.modules() if isinstance(m, ByDocument)):
        layer.register_forward_pre_hook(lambda m, args: None if meet.wait() >= 0 else args)
        router: Any = layer.gate
        router.register_forward_pre_hook(
            lambda m, args: seen.setdefault(threading.get_ident(), []).append(args[0].shape[0])
        )

    def run(place: int) -> None:
        with torch.no_grad():
            found[place] = model(input_ids=IDS, seq_idx=rows[place], use_cache=False).logits

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[place], wanted[place]) for place in range(2))
    cuts = sorted(tuple(sizes[:3]) for sizes in seen.values())
    assert cuts == sorted([LENGTHS, tuple(reversed(LENGTHS))])


def test_a_loss_for_routers_that_are_not_there_is_refused() -> None:
    body = {k: v for k, v in tiny.sft_stage(router_loss=0.01).items() if k != "needs"}
    config = SftConfig.read(body, where="x")
    with pytest.raises(UserError, match=r"router_loss is 0.01.*has no layers of experts"):
        Routing(load_model(config_of("granite, dense"), seed=0), coefficient=config.router_loss)
    spread = {"workers": 2, "strategy": "fsdp"}
    with pytest.raises(UserError, match="router_loss with fsdp and microbatch_rows 2"):
        SftConfig.read(body | {"distributed": spread, "microbatch_rows": 2}, where="x")
