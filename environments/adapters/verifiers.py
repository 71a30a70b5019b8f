"""An environment of `verifiers` (0.1, as its hub has them): `type: "environments.adapters.verifiers:Verifiers"`.

The environment runs its own rollout, and asks a client of ours for each reply: what it would have sent to an
endpoint is the next prompt here. Its rubric scores at the end. verifiers turns a reward function that raises
into a 0; here that leaves the episode without a reward.
"""

import asyncio
import functools
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

from openai.types.chat import ChatCompletion

from workbench.errors import one_line


class Verifiers:
    """A class as environments.custom plays them. env: the installed module with `load_environment`, as
    `my_env` or `my-env`. args: its keyword arguments."""

    def __init__(self, *, env: str, args: dict[str, Any] | None = None) -> None:
        module = importlib.import_module(env.replace("-", "_"))
        self._env = module.load_environment(**(args or {}))
        self._faults: list[str] = []
        for rubric in _rubrics(self._env.rubric):
            rubric.reward_funcs = [_watched(f, self._faults) for f in rubric.reward_funcs]

    def tasks(self, split: str, n: int, seed: int) -> Iterator[dict[str, Any]]:
        """Rows of its data: of the evaluation's where the split is not `train`."""
        get = self._env.get_dataset if split == "train" else self._env.get_eval_dataset
        for row in get(n=n, seed=seed):
            info = row.get("info") or {}
            info = json.loads(info) if isinstance(info, str) else info
            tools = info.get("oai_tools") or getattr(self._env, "oai_tools", None) or []
            documents = [tool.get("function", tool) for tool in tools]
            keys = ("name", "description", "parameters")
            yield {
                "prompt": row["prompt"],
                "answer": row.get("answer", ""),
                "task": row.get("task", "default"),
                "info": {**info, "oai_tools": tools or None},
                "tools": [{key: tool.get(key) for key in keys} for tool in documents],
            }

    async def reset(self, task: dict[str, Any]) -> None:
        """Let its rollout begin, up to the first request."""
        self._task = task
        self._requests: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._reply: asyncio.Future[ChatCompletion] | None = None
        self._known = 0
        client = SimpleNamespace(
            chat=SimpleNamespace(completions=SimpleNamespace(create=self._create))
        )
        self._run = asyncio.ensure_future(
            self._env.rollout(
                client, "policy", prompt=[dict(m) for m in task["prompt"]], answer=task["answer"],
                task=task["task"], info=task["info"], sampling_args={},
            )
        )  # fmt: skip
        asked = await self._next()
        if asked is None:
            raise RuntimeError("the environment ended before it asked anything")
        self._known = len(asked)

    async def turn(self, reply: Any) -> dict[str, Any]:
        """Hand it the reply; what it says next, and whether it is done."""
        assert self._reply is not None
        self._reply.set_result(_completion(reply))
        asked = await self._next()
        if asked is None:
            return {"messages": [], "done": True}
        new, self._known = asked[self._known + 1 :], len(asked)
        return {"messages": [_plain(message) for message in new], "done": False}

    async def verify(self) -> dict[str, Any]:
        """Its rubric's reward, with every part."""
        completion, state = await self._run
        task = self._task
        score = await self._env.rubric.score_rollout(
            prompt=task["prompt"], completion=completion, answer=task["answer"], state=state,
            task=task["task"], info=task["info"],
        )  # fmt: skip
        if self._faults:
            raise RuntimeError(self._faults[0])
        return {"value": score.reward, **score.metrics}

    async def _create(self, *, messages: list[Any], **settings: Any) -> ChatCompletion:
        """What its client's `chat.completions.create` does: wait for our policy."""
        self._reply = asyncio.get_running_loop().create_future()
        await self._requests.put(list(messages))
        return await self._reply

    async def _next(self) -> list[Any] | None:
        """The messages of its next request, or None where the rollout has ended. Raises: what it raised."""
        asked = asyncio.ensure_future(self._requests.get())
        await asyncio.wait({asked, self._run}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        self._run.result()
        return None


_NUMBER = count()


def _completion(reply: Any) -> ChatCompletion:
    calls = [
        {
            "id": f"call_{next(_NUMBER)}", "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for call in reply.tool_calls or []
    ]  # fmt: skip
    message = {"role": "assistant", "content": reply.answer, "tool_calls": calls or None}
    return ChatCompletion.model_validate(
        {
            "id": f"policy_{next(_NUMBER)}", "created": 0, "model": "policy", "object": "chat.completion",
            "choices": [
                {"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}
            ],
        }
    )  # fmt: skip


def _plain(message: Any) -> dict[str, Any]:
    """A message of its as ours: role and text."""
    given = message if isinstance(message, dict) else message.model_dump(exclude_none=True)
    return {"role": given["role"], "content": str(given.get("content") or "")}


def _rubrics(rubric: Any) -> list[Any]:
    inner = getattr(rubric, "rubrics", None)
    return [found for part in inner for found in _rubrics(part)] if inner else [rubric]


def _watched(function: Callable[..., Any], faults: list[str]) -> Callable[..., Any]:
    """The reward function, whose faults are noted before verifiers makes a 0 of them."""

    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            found = function(*args, **kwargs)
            return float(await found if inspect.isawaitable(found) else found)
        except Exception as error:
            faults.append(f"reward {function.__name__}: {one_line(error)}")
            raise

    return watched
