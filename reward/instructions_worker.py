"""lm-eval's IFEval instructions, called inside a checking process.

Only the two instruction modules are loaded: importing the package would bring in the whole
evaluation harness (seconds). The stand-in packages live in this process only.
"""

import importlib
import importlib.util
import random
import sys
import types
from pathlib import Path
from typing import Any


def _stand_in(name: str, path: Path) -> None:
    package = types.ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package


def _load_registry() -> Any:
    import langdetect  # noqa: PLC0415 - belongs with the registry it configures
    import nltk  # noqa: PLC0415 - belongs with the registry it configures

    # langdetect draws random numbers; a fixed seed makes verdicts repeatable.
    langdetect.DetectorFactory.seed = 0
    cache = _punkt_folder()
    if cache is not None:
        nltk.data.path.insert(0, str(cache))
    # Without the sentence tokenizer's data the module would try to download it on import.
    nltk.download = lambda *args, **kwargs: False
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ImportError("lm_eval is not installed")
    root = Path(next(iter(found.submodule_search_locations)))
    _stand_in("lm_eval", root)
    _stand_in("lm_eval.tasks", root / "tasks")
    _stand_in("lm_eval.tasks.ifeval", root / "tasks" / "ifeval")
    return importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")


def _punkt_folder() -> Path | None:
    """NLTK's punkt_tab as the llama-index-core wheel ships it (not in nltk's own wheel)."""
    found = importlib.util.find_spec("llama_index")
    for root in (found.submodule_search_locations or []) if found else []:
        folder = Path(root) / "core" / "_static" / "nltk_cache"
        if (folder / "tokenizers" / "punkt_tab").is_dir():
            return folder
    return None


_REGISTRY: dict[str, Any] = _load_registry().INSTRUCTION_DICT


def judge(
    instructions: list[dict[str, Any]], answer: str, prompt: str, strict: bool
) -> dict[str, Any]:
    """{"followed": [bool]} in the order of the instructions, or what is wrong with them."""
    candidates = [answer] if strict else _loose(answer)
    followed = []
    for item in instructions:
        name = item["instruction_id"]
        if name not in _REGISTRY:
            return {"unknown": name, "allowed": sorted(_REGISTRY)}
        # Missing arguments are drawn at random by the library; a fixed draw is repeatable.
        random.seed(0)
        instruction = _REGISTRY[name](name)
        try:
            instruction.build_description(**{k: v for k, v in item["kwargs"].items() if v})
        except (TypeError, ValueError, KeyError) as error:
            return {"bad_kwargs": f"instruction {name!r} does not take {item['kwargs']}: {error}"}
        arguments = instruction.get_instruction_args()
        if arguments and "prompt" in arguments and prompt:
            instruction.build_description(prompt=prompt)
        followed.append(any(c.strip() and instruction.check_following(c) for c in candidates))
    return {"followed": [bool(f) for f in followed]}


def _loose(answer: str) -> list[str]:
    """IFEval's loose candidates: without the first, the last, both lines; without asterisks."""
    lines = answer.split("\n")
    cut = [answer] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return cut + [text.replace("*", "") for text in cut]
