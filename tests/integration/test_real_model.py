"""A model of another format through the recipe: convert, LoRA on real tool calls, a plain checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from data_mix.bfcl import bfcl_conversations
from workbench.chat import parse, prompt_ids, render, stop_ids

ROOT = Path(__file__).resolve().parents[2]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """
name: tiny-real
cluster: {backend: local}
stages:
  base: {kind: convert, source: {type: checkpoint, path: FOLDER}}
  sft:
    kind: sft
    needs: [base]
    parts: {tools: {source: {type: bfcl, split: train, max_characters: 600}, samples: 8}}
    row_tokens: 2048
    rows_per_step: 4
    lora: {rank: 4, alpha: 8}
    lr: 1.0e-2
    precision: fp32
    threads: 1
"""


def save_tiny_chatml(
    folder: Path,
    *,
    hidden_size: int = 32,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
) -> None:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, special_tokens=special)
    texts = [json.dumps(c.tools) for c in bfcl_conversations("train")[:40]]
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=hidden_size, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=num_attention_heads, num_key_value_heads=num_key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_foreign_model_is_converted_trained_and_saved_whole(tmp_path: Path) -> None:
    save_tiny_chatml(tmp_path / "given")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("FOLDER", str(tmp_path / "given")))
    command = [sys.executable, "scripts/run_stage.py", "all", "--recipe", str(recipe)]
    command += ["--set", f"runs_dir={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "tiny-real"
    base = AutoModelForCausalLM.from_pretrained(run / "base/model", dtype=torch.float32)
    tuned = AutoModelForCausalLM.from_pretrained(run / "sft/model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "sft/model")
    # The limit of the model, and pad: what a converted tokenizer lacks.
    assert tokenizer.model_max_length == 4096 and tokenizer.pad_token == "<|im_end|>"
    changed = {
        name
        for name, tensor in tuned.state_dict().items()
        if not torch.equal(tensor, base.state_dict()[name])
    }
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in changed} == set(projections)
    assert len(changed) == 2 * len(projections)
    lines = (run / "sft/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_a_training_reply_is_what_the_checker_reads(tmp_path: Path) -> None:
    """Template round trip: the tokens with loss are the reply, and parse back to the gold calls."""
    save_tiny_chatml(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for c in bfcl_conversations("test")[:25]:
        assert c.reply is not None
        done = render(c.messages, tools=c.tools, thinking=False, tokenizer=tokenizer)
        prompt = prompt_ids(c.prompt, tools=c.tools, thinking=False, tokenizer=tokenizer)
        assert done.input_ids[: len(prompt)] == prompt
        assert not any(done.loss_mask[: len(prompt)])
        with_loss = [i for i, m in zip(done.input_ids, done.loss_mask, strict=True) if m]
        assert tuple(with_loss[-1:]) == stop_ids(tokenizer)
        reply = parse(tokenizer.decode(with_loss[:-1]), thinking=False)
        assert reply.well_formed and reply.tool_calls == c.reply["tool_calls"]
