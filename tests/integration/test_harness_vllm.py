"""lm-eval's tasks through our engine on a tiny hybrid: prompt log-probabilities, and lm-eval's own model
of the same checkpoint as the oracle."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.config import EngineConfig
from engine.protocol import Request, Sampling
from evals.config import EvalsConfig
from evals.jobs import Job, jobs_of
from evals.responder import LocalResponder, checkpoint_digest
from evals.run import Progress, evaluate
from workbench.errors import StopRequested
from workbench.rundir import read_json_lines

pytestmark = pytest.mark.integration
MAX_LEN = 704
PROMPT = Sampling(max_tokens=1, temperature=0.0, logprobs=False, prompt_logprobs=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["What is the answer? A line\nof text </think>\n"] * 3, 300, path)
    sizes = {"hidden_size": 64, "max_position_embeddings": MAX_LEN}
    config = build_config("miniature", vocab_size=len(tokenizer), **sizes)
    load_model(config, seed=0).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Any]:
    from engine.vllm_engine import VllmEngine

    config = EngineConfig(max_model_len=MAX_LEN, max_num_seqs=16, max_num_batched_tokens=1024)
    made = VllmEngine(str(checkpoint), config)
    yield made
    made.close()


def test_prompt_logprobs_equal_transformers(checkpoint: Path, engine: Any) -> None:
    """Prompts of one token to more than two blocks, in one batch with plain requests."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    made = torch.Generator().manual_seed(0)
    prompts = [torch.randint(20, 290, (n,), generator=made).tolist() for n in (2, 5, 40, 255, 600)]
    plain = Request(prompts[1], Sampling(max_tokens=4, temperature=0.0))
    done = dict(engine.stream([*(Request(p, PROMPT) for p in prompts), plain]))
    for place, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([prompt]), use_cache=False).logits[0, :-1]
        rows, ids = torch.log_softmax(logits, dim=-1), torch.tensor(prompt[1:])[:, None]
        expected = rows.gather(1, ids)[:, 0]
        ranks = (rows > expected[:, None]).sum(-1) + 1
        assert len(done[place].prompt_logprobs) == len(prompt) - 1
        assert done[place].prompt_logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        # Tokens whose logits are equal to the last digits may change places.
        assert done[place].prompt_ranks == pytest.approx(ranks.tolist(), abs=2)
        assert [r == 1 for r in done[place].prompt_ranks] == [r == 1 for r in ranks.tolist()]
    assert done[len(prompts)].prompt_logprobs == []
    assert len(done[len(prompts)].logprobs) == 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files of the user's own: multiple choice from the miniature, texts, and a perplexity."""
    pytest.importorskip("sacrebleu", reason="scripts/setup.sh evals installs what lm-eval imports")
    from data_mix.world import conversations

    folder = tmp_path_factory.mktemp("data")
    tasks = folder / "lm-eval"
    tasks.mkdir()
    rows = []
    for number, asked in enumerate(conversations("science", "test", 12, 3)):
        options = ["alpha beta", "gamma", "a longer option, with words", "delta ray"]
        text = f"{number}. " + str(asked.prompt[-1]["content"])[:120]
        rows.append({"asked": text, "options": options, "gold": number % 4, "number": number})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "Question: {{asked}}\nAnswer:",
    }
    choice = {
        **base, "task": "tiny_choice", "output_type": "multiple_choice", "num_fewshot": 1,
        "fewshot_split": "test", "doc_to_target": "gold", "doc_to_choice": "options",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
    }  # fmt: skip
    texts = {
        **base, "task": "tiny_texts", "output_type": "generate_until", "doc_to_target": "{{asked}}",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    for task in (choice, texts):
        (tasks / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder


def _jobs(*names: str) -> list[Job]:
    config = EvalsConfig(kind="evals", benchmarks=list(names), thinking=["protocol"])
    return jobs_of(config, seed=5)


class _Counting:
    """The engine; counts requests, and may fail one."""

    def __init__(self, engine: Any, fail: int = -1) -> None:
        self.engine, self.asked, self.fail = engine, 0, fail

    def stream(self, requests: Any) -> Any:
        self.asked += len(requests)
        for place, completion in self.engine.stream(requests):
            if place == self.fail:
                completion = replace(completion, finish_reason="error", error="lost")
            yield place, completion

    def close(self) -> None:
        pass


def _responder(checkpoint: Path, engine: Any) -> LocalResponder:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    identity = checkpoint_digest(checkpoint)
    return LocalResponder(tokenizer, identity, lambda longest: engine, MAX_LEN)


@pytest.fixture(scope="module")
def oracle(checkpoint: Path, data: Path) -> dict[str, Any]:
    """The same task files through lm-eval's own Hugging Face model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(data / "lm-eval"))
    model = HFLM(str(checkpoint), dtype="float32", device="cpu", batch_size=1)
    found: dict[str, Any] = simple_evaluate(
        model, tasks=["tiny_choice", "tiny_texts"], task_manager=manager, bootstrap_iters=0
    )
    return found


def _of(found: dict[str, Any], task: str) -> list[Any]:
    return sorted(found["samples"][task], key=lambda doc: int(doc["doc_id"]))


def test_likelihoods_and_scores_equal_the_harness_own_model(
    checkpoint: Path, engine: Any, data: Path, oracle: dict[str, Any], tmp_path: Path
) -> None:
    counting = _Counting(engine)
    choice, texts = evaluate(
        _responder(checkpoint, counting),
        _jobs("lm-eval-tiny_choice", "lm-eval-tiny_texts"),
        model="m", out=tmp_path, data=data,
    )  # fmt: skip
    assert choice["n"] == texts["n"] == 12
    assert choice["metrics"]["accuracy"]["value"] == pytest.approx(
        oracle["results"]["tiny_choice"]["acc,none"]
    )
    assert choice["harness"]["results"]["tiny_choice"]["acc_norm,none"] == pytest.approx(
        oracle["results"]["tiny_choice"]["acc_norm,none"]
    )
    rows = list(read_json_lines(tmp_path / "lm-eval-tiny_choice" / "samples.jsonl"))
    for row, doc in zip(rows, _of(oracle, "tiny_choice"), strict=True):
        expected = [resp[0][0] for resp in doc["resps"]]
        assert row["why"]["likelihoods"] == pytest.approx(expected, abs=1e-4)
        assert row["prompt"][0]["content"] == doc["arguments"][0][0]
        assert row["value"] == float(doc["acc"])
    rows = list(read_json_lines(tmp_path / "lm-eval-tiny_texts" / "samples.jsonl"))
    theirs = [doc["resps"][0][0] for doc in _of(oracle, "tiny_texts")]
    assert [row["reply"] for row in rows] == theirs
    # What has been asked is not asked again, under any name of the model.
    asked = counting.asked
    again = evaluate(
        _responder(checkpoint, counting), _jobs("lm-eval-tiny_choice"),
        model="other", out=tmp_path / "other", data=data, earlier=[tmp_path],
    )  # fmt: skip
    assert counting.asked == asked
    assert again[0]["metrics"] == choice["metrics"]


def test_a_stop_keeps_what_was_answered_and_a_failure_scores_nothing(
    checkpoint: Path, engine: Any, data: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress.done)
        return progress.done >= 7

    jobs = _jobs("lm-eval-tiny_choice")
    counting = _Counting(engine)
    with pytest.raises(StopRequested):
        evaluate(
            _responder(checkpoint, counting), jobs, model="m", out=tmp_path, data=data, watch=watch
        )
    kept = list(read_json_lines(tmp_path / "lm-eval-tiny_choice" / "requests.jsonl"))
    assert len(kept) >= 7
    failing = _Counting(engine, fail=0)
    (found,) = evaluate(_responder(checkpoint, failing), jobs, model="m", out=tmp_path, data=data)
    assert failing.asked == 48 - len(kept)
    assert found["failed"] == 1 and found["n"] == 11
    assert found["failures"] == {"lost": 1}
    (whole,) = evaluate(
        _responder(checkpoint, counting := _Counting(engine)), jobs,
        model="m", out=tmp_path, data=data,
    )  # fmt: skip
    assert (whole["failed"], whole["n"], counting.asked) == (0, 12, 1)
