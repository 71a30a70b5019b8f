"""The runner of `make unit` and `make integration`."""

from pathlib import Path

import pytest

from tests import side_by_side
from tests.side_by_side import Ended, Job, Queue, each, groups, run, run_all


def test_files_are_dealt_and_those_of_ray_are_alone(tmp_path: Path) -> None:
    texts = {"a.py": "import ray", "b.py": "arrays = 1", "c.py": "def test(head: RayHead): ..."}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    jobs = each([str(tmp_path / name) for name in texts])
    assert [job.alone for job in jobs] == [True, False, True]
    dealt = groups(["a", "b", "c", "d", "e"], 2)
    assert [job.files for job in dealt] == [("a", "c", "e"), ("b", "d")]
    assert len(groups(["a"], 4)) == 1


def test_one_place_has_those_of_ray() -> None:
    queue = Queue([Job(("r1",), True), Job(("n1",)), Job(("r2",), True), Job(("n2",))])
    taken = [queue.take(place) for place in (1, 0, 1, 1, 0, 0)]
    assert [job and job.name for job in taken] == ["n1", "r1", "n2", None, "r2", None]


@pytest.mark.parametrize("codes", [(0, 5, 0), (0, 1, 0)])
def test_all_are_run_whatever_fails(
    codes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [Job((str(number),), alone=True) for number in range(len(codes))]
    monkeypatch.setattr(
        side_by_side, "run", lambda job: Ended(job, codes[int(job.name)], 2, 1, "said\n")
    )
    assert len(run_all(jobs)) == 3
    assert ("1: FAILED in 2 s, 1 s of CPU" in capsys.readouterr().out) == (1 in codes)


def test_a_process_that_fails_says_why_and_what_it_took(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): assert 3 == 4")
    ended = run(Job((str(tmp_path / "test_it.py"),)))
    assert not ended.passed and "assert 3 == 4" in ended.printed and ended.cpu_s > 0
