"""A reward model: any causal language model with a one-number head on a conversation's last token.

transformers has no sequence classifier for NemotronH. The folder is a plain checkpoint (it loads with
AutoModelForCausalLM) with the head beside it in `reward_head.safetensors`.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from model.checkpoint import reading
from model.hybrid import load_model, save_model
from workbench.chat import parse, render
from workbench.chat.template import TRACE_KEYS, split_trace
from workbench.conversation import Conversation, Message
from workbench.errors import UserError

_HEAD_FILE, _ABOUT_FILE = "reward_head.safetensors", "reward_model.json"


class ScoreModel(nn.Module):
    """causal: the language model, whose own head is not used. head: hidden state -> score."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        width = causal.config.get_text_config().hidden_size
        self.head = new_head(width)
        # TRL asks for it; a copy, so that the saved checkpoint stays a plain language model.
        self.config = copy.deepcopy(causal.config)
        self.config.num_labels = 1

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, seq_idx: torch.Tensor, **_: Any
    ) -> SequenceClassifierOutput:
        """Scores [B, 1] of right-padded rows [B, T], read at each row's last real token."""
        hidden = self.causal.base_model(
            input_ids=input_ids, seq_idx=seq_idx, use_cache=False
        ).last_hidden_state
        last = attention_mask.sum(1) - 1
        chosen = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return SequenceClassifierOutput(logits=self.head(chosen.to(self.head.weight.dtype)))

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Of the language model; what a Trainer calls."""
        self.causal.gradient_checkpointing_enable(**kwargs)

    def add_model_tags(self, tags: Any) -> None:
        """What TRL's trainer calls; tags are for the hub."""


def new_head(width: int) -> nn.Linear:
    """An untrained head; draws from torch's global random state."""
    head = nn.Linear(width, 1, bias=False)
    nn.init.normal_(head.weight, std=1 / (width + 1) ** 0.5)
    return head


def save_score_model(model: ScoreModel, folder: Path, tokenizer: Any) -> Path:
    """Write the checkpoint and the head; it appears whole."""
    half = folder.with_name(f".{folder.name}.head")
    save_model(model.causal, half, tokenizer)
    write_head(model.head.weight, half)
    half.rename(folder)
    return folder


def write_head(weight: torch.Tensor, folder: Path) -> None:
    """Put a head's weight [1, D] beside the language model that it reads."""
    save_file({"weight": weight.detach().cpu().contiguous()}, str(folder / _HEAD_FILE))
    about = {"input": "conversation without traces, answer in place of the reply", "outputs": 1}
    (folder / _ABOUT_FILE).write_text(json.dumps(about) + "\n")


def load_score_model(folder: str | Path, device: str = "cpu") -> ScoreModel:
    """Read it back onto a device, every tensor accounted for. Raises: UserError where it is not a reward model."""
    head = Path(folder) / _HEAD_FILE
    if not head.is_file():
        raise UserError(
            f"{folder} is not a reward model (no {_HEAD_FILE}); give a stage of kind reward_model"
        )
    model = ScoreModel(load_model(folder, device=device)).to(device)
    with reading(head):
        model.head.load_state_dict(load_file(head), strict=True)
    return model.eval()


def score_ids(
    prompt: Sequence[Message], reply_text: str, *, thinking: bool, tools: Any, tokenizer: Any
) -> list[int]:
    """What is scored: the prompt with the reply's answer, without its trace.

    So a reply is worth the same with and without reasoning, and nothing can be bought in a trace. A
    reply that never closes its trace has no answer: it is scored as an empty one.
    """
    reply = parse(reply_text, thinking=thinking)
    calls = [{"type": "function", "function": c} for c in reply.tool_calls or []]
    message: Message = {"role": "assistant", "content": reply.answer}
    if calls:
        message["tool_calls"] = calls
    done = render([*prompt, message], tools=tools, thinking=False, tokenizer=tokenizer)
    return done.input_ids


def conversation_ids(conversation: Conversation, tokenizer: Any) -> list[int]:
    """As `score_ids`, of a reply that is written as a message."""
    _, answer = split_trace(conversation.reply or {"role": "assistant"})
    kept = {k: v for k, v in (conversation.reply or {}).items() if k not in TRACE_KEYS}
    messages = [*conversation.prompt, {**kept, "content": answer}]
    return render(messages, tools=conversation.tools, thinking=False, tokenizer=tokenizer).input_ids


def collate(rows: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded input_ids, attention_mask and seq_idx [B, T]; padding is another document."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "seq_idx": (1 - mask).int()}


@torch.no_grad()
def score_rows(
    model: ScoreModel, rows: Sequence[Sequence[int]], *, pad_token_id: int, batch: int = 16
) -> list[float]:
    """The score of each row of ids. Raises: RuntimeError where a score is not a finite number."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    device = model.head.weight.device
    out = [0.0] * len(rows)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        inputs = {
            k: v.to(device) for k, v in collate([rows[i] for i in part], pad_token_id).items()
        }
        for i, score in zip(part, model(**inputs).logits[:, 0].tolist(), strict=True):
            out[i] = score
    if not all(score == score and abs(score) != float("inf") for score in out):
        raise RuntimeError("the reward model gave a score that is not a finite number")
    return out
