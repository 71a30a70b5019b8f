"""LoRA reaches every projection of a Llama model, and merging it is exact."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sft.lora import target_modules


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def test_every_linear_layer_but_the_head_is_adapted() -> None:
    model = llama()
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert set(target_modules(model)) == linear - {"lm_head"}
    assert len(linear) - 1 == 3 * 7  # q, k, v, o, gate, up, down


def test_a_merged_model_says_what_the_adapted_one_says() -> None:
    model = llama()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=target_modules(model))
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 40, (2, 11))
    with torch.no_grad():
        before = adapted(ids).logits
        merged = adapted.merge_and_unload()
        assert (merged(ids).logits - before).abs().max() < 1e-6
    changed = {n for n, t in merged.state_dict().items() if not torch.equal(t, plain[n])}
    assert changed == {f"{name}.weight" for name in target_modules(merged)}
