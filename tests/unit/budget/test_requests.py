"""A budget as a request carries it."""

from typing import Any

import pytest

from budget.requests import BudgetRequest
from workbench.errors import UserError


def test_what_is_written_is_read_back() -> None:
    for request in (BudgetRequest(0), BudgetRequest(512, 100, "card")):
        assert BudgetRequest.read(request.extra_args()) == request
    assert BudgetRequest.read({"thinking_budget": 8.0}) == BudgetRequest(8, 500, "newline")


@pytest.mark.parametrize("extra", [None, {}, {"session_id": "x"}, {"thinking_budget": None}])
def test_no_budget(extra: dict[str, Any] | None) -> None:
    assert BudgetRequest.read(extra) is None


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"thinking_budget": -1}, "thinking_budget -1: give a whole number"),
        ({"thinking_budget": 1.5}, "thinking_budget 1.5"),
        ({"thinking_budget": True}, "thinking_budget True"),
        ({"thinking_budget": "9"}, "thinking_budget '9'"),
        ({"thinking_budget": float("nan")}, "thinking_budget nan"),
        ({"thinking_budget": float("inf")}, "thinking_budget inf"),
        ({"thinking_budget": 9, "thinking_grace": -2}, "thinking_grace -2"),
        ({"thinking_budget": 9, "thinking_rule": "nim"}, "thinking_rule 'nim'; allowed: newline"),
        ({"thinking_grace": 9}, "thinking_grace without thinking_budget"),
        ({"thinking_budgte": 9}, "unknown request argument 'thinking_budgte'"),
    ],
)
def test_what_makes_no_sense_is_refused(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        BudgetRequest.read(extra)
