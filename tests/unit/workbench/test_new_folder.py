"""A folder appears whole or not at all, and an older one stays until then."""

from pathlib import Path

import pytest

from workbench.rundir import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for version in ("one", "two"):
        with new_folder(path) as folder:
            (folder / version).write_text("x")
            assert not path.exists() or names(path) == ["one"]
        assert names(path) == [version]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_where_filling_fails_nothing_appears_and_the_older_one_stays(
    tmp_path: Path, older: bool, error: BaseException
) -> None:
    path = tmp_path / "model"
    if older:
        path.mkdir()
        (path / "whole").write_text("x")
    with pytest.raises(type(error)), new_folder(path) as folder:
        (folder / "half").write_text("x")
        raise error
    assert names(tmp_path) == (["model"] if older else [])
    assert not older or names(path) == ["whole"]
