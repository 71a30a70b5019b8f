"""SciCode: research problems in steps; each step's function builds on the model's earlier ones.

Steps, prompts and test programs are those of the official evaluation as nemo-gym ships it. A test
program holds the model's code, the official comparisons and the targets' file together, so code
that looks for the targets would find them; a program that ends early does not pass.
"""

import ast
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from environments.protocol import Step, Task, ToolCall
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, answer, objects
from evals.sources import Data, Hub, Loading, from_hub, own_rows, package_text
from evals.statistics import ratio
from reward.sandbox import Limits, SandboxError, run_program
from reward.verdict import Verdict, decided, failed
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation, Message
from workbench.errors import UserError
from workbench.records import Estimate, Sample
from workbench.statistics import mean_interval

_HUBS = [Hub("SciCode1/SciCode", split=split) for split in ("validation", "test")]
_STEP_TEXTS = (
    "step_number", "step_description_prompt", "step_background", "function_header", "return_line",
)  # fmt: skip


def _sub_steps(value: Any) -> list[dict[str, Any]]:
    """Steps as the official programs read them."""
    found = objects(value)
    for number, step in enumerate(found, 1):
        given: Mapping[str, Any] = step if isinstance(step, Mapping) else {}
        wrong = [key for key in _STEP_TEXTS if not isinstance(given.get(key), str)]
        cases = given.get("test_cases")
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            wrong.append("test_cases")
        if wrong:
            raise ValueError(
                f"step {number} has no right {wrong[0]}; give texts {', '.join(_STEP_TEXTS)} and a "
                "list of texts test_cases"
            )
    return found


def _imports(value: Any) -> str:
    if not isinstance(value, str | None):
        raise ValueError("give a text")
    return value or ""


_COLUMNS: dict[str, Read] = {
    "problem_id": answer,
    "required_dependencies": _imports,
    "sub_steps": _sub_steps,
}
TARGETS = "scicode-test-data.h5"
# What its programs may import; h5py reads the targets.
_PACKAGES = ("numpy", "scipy", "sympy", "mpmath", "h5py")
# The official runner's limit for one step is 30 s; importing scipy takes a few of them here.
_TIMEOUT_S = 60.0
_LIMITS = Limits(timeout_s=_TIMEOUT_S, memory_bytes=6 * 2**30, open_files=256, output_bytes=2**22)
_PROMPT = "scicode/prompts/default.yaml"
_RUNNER = "scicode/scicode_integration/runner.py"
_STEPS = "scicode_agent/step_utils.py"


@cache
def _official(package: str, path: str, *names: str) -> dict[str, Any]:
    """Functions and constants of a module, without what else its imports would start (Ray)."""
    tree = ast.parse(package_text(package, path, "scicode"))
    plain = {"re", "json"}
    body = [node for node in tree.body if _is_wanted(node, {*names}, plain)]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), path, "exec"), namespace)
    absent = [name for name in names if name not in namespace]
    if absent:
        raise UserError(f"{package}/{path} has no {absent[0]}; run scripts/setup.sh evals")
    return namespace


def _is_wanted(node: ast.stmt, names: set[str], modules: set[str]) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in names or node.name.startswith("_")
    if isinstance(node, ast.Import):
        return all(alias.name in modules for alias in node.names)
    if isinstance(node, ast.Assign):
        return all(
            isinstance(t, ast.Name) and (t.id in names or t.id[0] == "_") for t in node.targets
        )
    return False


def _steps() -> dict[str, Any]:
    return _official(
        "responses_api_agents", _STEPS,
        "process_problem_steps", "extract_python_script", "PREFILLED_STEPS_CODE",
    )  # fmt: skip


def _runner() -> dict[str, Any]:
    return _official("resources_servers", _RUNNER, "build_test_program", "sanitize_test")


class Steps:
    """A problem's steps, each prompt with the code of those before; implements
    environments.protocol.Environment."""

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._begin(task.data)

    def _begin(self, entry: Mapping[str, Any]) -> None:
        self.entry = entry
        self.codes: list[str] = []
        self.programs: dict[int, str] = {}
        self._skip_given()

    @classmethod
    def opening(cls, entry: Mapping[str, Any]) -> list[Message]:
        """The prompt of the first step that is not given."""
        steps = cls()
        steps._begin(entry)
        return steps._asked()

    def _skip_given(self) -> None:
        given = _steps()["PREFILLED_STEPS_CODE"]
        while (place := (self.entry["problem_id"], len(self.codes))) in given:
            self.codes.append(given[place])

    def _asked(self) -> list[Message]:
        before, following, _ = self._context()
        asked = self.entry["prompt"].format(
            problem_steps_str=before,
            next_step_str=following,
            dependencies=self.entry["required_dependencies"],
        )
        return [{"role": "user", "content": asked}]

    def _context(self) -> tuple[str, str, str]:
        steps, place = self.entry["sub_steps"], len(self.codes)
        later: list[str | None] = [None] * (len(steps) - place)
        found: tuple[str, str, str] = _steps()["process_problem_steps"](
            steps, place, [*self.codes, *later], self.entry["with_background"]
        )
        return found

    def step(self, reply: Reply) -> Step:
        """See protocol."""
        before = "\n".join([self.entry["required_dependencies"], self._context()[2]])
        code = _steps()["extract_python_script"](reply.answer)
        self.programs[len(self.codes)] = f"{before}\n{code}"
        self.codes.append(code)
        self._skip_given()
        if len(self.codes) >= len(self.entry["sub_steps"]):
            return Step(done=True)
        return Step(self._asked(), anew=True)

    def gold(self) -> list[list[ToolCall]]:
        """See protocol. The right code is not a call."""
        return []

    def verify(self) -> Verdict:
        """See protocol. The share of the steps whose tests pass; steps that were given do not count."""
        passed, errors = {}, {}
        for place, code in self.programs.items():
            step = self.entry["sub_steps"][place]
            try:
                problem = run_step(code, step, Path(self.entry["targets"]))
            except SandboxError as error:
                return failed(str(error))
            passed[step["step_number"]] = not problem
            if problem:
                errors[step["step_number"]] = problem
        share = sum(passed.values()) / max(len(passed), 1)
        return decided(share, passed=sum(passed.values()), total=len(passed), errors=errors)


def run_step(code: str, step: Mapping[str, Any], targets: Path) -> str:
    """Run a step's official test program; "" where it passes, else why not.

    Raises: SandboxError where the program could not be run as it was meant.
    """
    tests = [_runner()["sanitize_test"](test) for test in step["test_cases"]]
    # Known to the last line alone: a program that ends before its tests does not print it.
    token = secrets.token_hex(16)
    program = _runner()["build_test_program"](code, str(targets), step["step_number"], tests)
    run = run_program(
        f"{program}\nprint('\\n' + {token!r})\n",
        limits=_LIMITS,
        packages=_PACKAGES,
        files=(str(targets),),
    )
    if run.outcome == "exited" and run.exit_code == 0 and run.stdout.rstrip().endswith(token):
        return ""
    last = (run.stderr.strip().splitlines() or [""])[-1][:300]
    if last.startswith(("ImportError", "ModuleNotFoundError")):
        # The model's own imports are taken out, so this is the machine's lack.
        raise SandboxError(f"SciCode step {step['step_number']} needs another package: {last}")
    if run.outcome != "exited":
        return run.outcome.replace("_", " ")
    return last or "ended early"


def _rows(loading: Loading) -> list[dict[str, Any]]:
    found = own_rows("scicode", loading, _COLUMNS)
    if found is not None:
        return found
    return [row for hub in _HUBS for row in from_hub("scicode", loading, hub, _COLUMNS)]


def _load(loading: Loading) -> list[Conversation]:
    targets = loading.data / TARGETS
    if not targets.is_file():
        raise UserError(
            f"benchmark 'scicode' compares with the numbers of SciCode's test_data.h5 (about 1 GB, from "
            f"the authors' download folder, named in their repository); put it at {targets}"
        )
    prompt = yaml.safe_load(package_text("benchmarks", _PROMPT, "scicode"))["user"]
    questions = []
    for row in _rows(loading)[: loading.limit]:
        options = {
            "problem_id": str(row["problem_id"]),
            "required_dependencies": row["required_dependencies"],
            "sub_steps": row["sub_steps"],
            "prompt": prompt,
            "with_background": True,
            "targets": str(targets.resolve()),
        }
        questions.append(
            Conversation(
                id=f"scicode-{row['problem_id']}",
                domain="scicode",
                messages=Steps.opening(options),
                check=CheckSpec("scicode", None, options),
            )
        )
    return questions


def by_step(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Steps passed by steps asked (the paper's number), and problems of which every step passes."""
    parts = [(s.id, float(s.why["passed"]), float(s.why["total"])) for s in samples]
    whole = [float(above == below) for _, above, below in parts]
    return {
        "subtask_accuracy": ratio(parts),
        "problem_accuracy": mean_interval(whole, [part[0] for part in parts]),
    }


BENCHMARKS = [
    Benchmark(
        "scicode",
        "SciCode with background, 80 problems in steps; sub-task accuracy",
        Data(
            "hub SciCode1/SciCode, and its test_data.h5; prompts of package nemo-gym",
            packages=("resources_servers", "h5py"),
            files=("scicode",),
            only=(TARGETS,),
        ),
        _load,
        BenchmarkSampling(source="model card; one run"),
        metrics=by_step,
        world=lambda question: Steps(),
        headline="subtask_accuracy",
        paper={"12B aligned": 18.75, "Qwen3-8B": 24.65, "9B (NeMo-Skills)": 23.56},
    ),
]
