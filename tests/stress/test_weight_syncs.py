"""Every corruption of a weight sync is caught, and a thousand clean syncs raise no alarm."""

from collections.abc import Callable, Iterator

import pytest

from tests.sync_pair import Pair
from tests.sync_trial import clean_syncs, try_faults

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.engine.close()


def test_every_corruption_of_a_sync_is_caught(pair: Pair, count: Callable[[str], None]) -> None:
    found = try_faults(pair)
    count(str(found))
    assert (found.missed, found.otherwise, found.alarms) == ([], [], [])


def test_a_thousand_clean_syncs_raise_no_alarm(pair: Pair, count: Callable[[str], None]) -> None:
    says, alarms = clean_syncs(pair, 1000)
    count(says)
    assert alarms == []
