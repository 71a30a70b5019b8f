"""IFEval's instructions (lm-eval's copy) and IFBench's own, called inside a checking process.

Of lm-eval only the two instruction modules are loaded: importing the package would bring in the
whole evaluation harness (seconds). The stand-in packages live in this process only.
"""

import importlib
import importlib.util
import random
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any


def _stand_in(name: str, path: Path) -> None:
    package = types.ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package


def _prepare() -> None:
    import langdetect  # noqa: PLC0415 - belongs with the registries it configures
    import nltk  # noqa: PLC0415 - belongs with the registries it configures

    # langdetect draws random numbers; a fixed seed makes verdicts repeatable.
    langdetect.DetectorFactory.seed = 0
    folder = punkt_folder()
    if folder is not None:
        nltk.data.path.insert(0, str(folder))
    # Without their data the modules would try to download it.
    nltk.download = lambda *args, **kwargs: False


@cache
def _registry(family: str) -> Any:
    _prepare()
    return _ifbench() if family == "ifbench" else _ifeval()


def _ifeval() -> Any:
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ImportError("lm_eval is not installed")
    root = Path(next(iter(found.submodule_search_locations)))
    _stand_in("lm_eval", root)
    _stand_in("lm_eval.tasks", root / "tasks")
    _stand_in("lm_eval.tasks.ifeval", root / "tasks" / "ifeval")
    return importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT


def _ifbench() -> Any:
    # Its module asks spaCy to download a model on import, and then never uses spaCy.
    cli = types.ModuleType("spacy.cli")
    cli.download = lambda *args, **kwargs: None  # type: ignore[attr-defined]
    sys.modules.setdefault("spacy", types.ModuleType("spacy"))
    sys.modules.setdefault("spacy.cli", cli)
    return importlib.import_module("ifbench.instructions_registry").INSTRUCTION_DICT


def punkt_folder() -> Path | None:
    """NLTK's punkt_tab as the llama-index-core wheel ships it (not in nltk's own wheel)."""
    found = importlib.util.find_spec("llama_index")
    for root in (found.submodule_search_locations or []) if found else []:
        folder = Path(root) / "core" / "_static" / "nltk_cache"
        if (folder / "tokenizers" / "punkt_tab").is_dir():
            return folder
    return None


def judge(
    instructions: list[dict[str, Any]], answer: str, prompt: str, strict: bool, family: str
) -> dict[str, Any]:
    """{"followed": [bool]} in the order of the instructions, or what is wrong with them."""
    registry = _registry(family)
    candidates = [answer] if strict else _loose(answer)
    followed = []
    for item in instructions:
        name = item["instruction_id"]
        if name not in registry:
            return {"unknown": name, "allowed": sorted(registry)}
        # Missing arguments are drawn at random by the library; a fixed draw is repeatable.
        random.seed(0)
        instruction = registry[name](name)
        try:
            instruction.build_description(**_given(item["kwargs"], family))
        except (TypeError, ValueError, KeyError) as error:
            return {"bad_kwargs": f"instruction {name!r} does not take {item['kwargs']}: {error}"}
        arguments = instruction.get_instruction_args()
        if arguments and "prompt" in arguments and prompt:
            instruction.build_description(prompt=prompt)
        followed.append(any(c.strip() and instruction.check_following(c) for c in candidates))
    return {"followed": [bool(f) for f in followed]}


def _given(kwargs: dict[str, Any], family: str) -> dict[str, Any]:
    """The arguments that are set: lm-eval leaves out what is false, IFBench only nulls."""
    if family == "ifbench":
        return {k: v for k, v in kwargs.items() if v is not None}
    return {k: v for k, v in kwargs.items() if v}


def _loose(answer: str) -> list[str]:
    """IFEval's loose candidates: without the first, the last, both lines; without asterisks."""
    lines = answer.split("\n")
    cut = [answer] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return cut + [text.replace("*", "") for text in cut]
