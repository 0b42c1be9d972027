"""A key that sends the main query everywhere needs a person's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import EnvironmentInvalid, Refused, StepFailed
from credscale.core.step import Status
from credscale.mongo.advice.acceptance import shard_key_accepted

if TYPE_CHECKING:
    from credscale.core.context import Context

GUIDES, BETTER = "createdAt:hashed,userId:1", "userId:hashed,createdAt:1"


@pytest.mark.parametrize(
    ("shard_key", "main_query", "accept", "words"),
    [
        (BETTER, "userId", False, "go to one shard"),
        (BETTER, "userId,createdAt>", False, "go to one shard"),
        (GUIDES, "createdAt", False, "go to one shard"),
        (GUIDES, "", False, "no main query was stated"),
        (GUIDES, "userId", True, "accepted by the operator"),
    ],
)
def test_goes_on(ctx: Context, shard_key: str, main_query: str, accept: bool, words: str) -> None:
    params: dict[str, Any] = {"shard_key": shard_key, "main_query": main_query, "accept_scatter_gather": accept}
    result = shard_key_accepted(ctx, **params)
    assert result.status is Status.OK
    assert words in result.summary


@pytest.mark.parametrize("main_query", ["userId", "userId,createdAt>", "createdAt>"])
def test_refuses_the_guides_key_and_names_the_better_one(ctx: Context, main_query: str) -> None:
    with pytest.raises(StepFailed) as caught:
        shard_key_accepted(ctx, shard_key=GUIDES, main_query=main_query)
    assert isinstance(caught.value.__cause__, Refused)
    text = str(caught.value)
    assert "go to every shard under createdAt:hashed,userId:1" in text
    assert "--accept-scatter-gather" in text
    assert ("userId:hashed" in text) == ("userId" in main_query)


def test_a_query_that_cannot_be_read_is_an_error_of_the_command(ctx: Context) -> None:
    with pytest.raises(StepFailed) as caught:
        shard_key_accepted(ctx, shard_key=GUIDES, main_query="userId = 3")
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)
