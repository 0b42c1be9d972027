"""Items as a part of a sentence."""

from __future__ import annotations

import pytest

from credscale.core.phrases import listed


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b and 1 more"),
        (["a", "b", "c", "d"], "a, b and 2 more"),
    ],
)
def test_the_first_items_are_told_and_the_rest_counted(items: list[str], told: str) -> None:
    assert listed(items, 2) == told


def test_parts_of_sentences_stand_apart() -> None:
    assert listed(iter(["a is b", "c is d", "e is f"]), 2, "; ") == "a is b; c is d; and 1 more"
