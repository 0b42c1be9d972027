"""The table of server bugs says of each version what it has, and what to do about it."""

from __future__ import annotations

import pytest

from credscale.mongo.cluster.known_bugs import KNOWN_BUGS, NEWEST, KnownBug, bugs_of


def tickets(*version: int) -> set[str]:
    return {bug.ticket for bug in bugs_of(version)}


@pytest.mark.parametrize(
    ("ticket", "last", "first"),
    [
        ("SERVER-71219", (6, 1, 1), (6, 3, 0)),
        ("SERVER-71219", (6, 2, 1), (6, 3, 0)),
        ("SERVER-71219", (6, 0, 4), (6, 0, 5)),
        ("SERVER-68361", (4, 4, 18), (4, 4, 19)),
        ("SERVER-68361", (5, 0, 13), (5, 0, 14)),
        ("SERVER-68361", (6, 0, 3), (6, 0, 4)),
        ("SERVER-68361", (6, 1, 0), (6, 1, 1)),
        ("SERVER-53335", (4, 4, 10), (4, 4, 11)),
        ("SERVER-53335", (5, 0, 3), (5, 0, 4)),
        ("SERVER-94315", (8, 0, 4), (8, 1, 0)),
        ("SERVER-94315", (7, 0, 14), (7, 1, 0)),
    ],
)
def test_the_last_version_with_a_bug_and_the_first_without(
    ticket: str, last: tuple[int, ...], first: tuple[int, ...]
) -> None:
    assert ticket in tickets(*last)
    assert ticket not in tickets(*first)


@pytest.mark.parametrize("version", [(5, 0, 13), (6, 0, 3), (6, 1, 0), (6, 2, 0)])
def test_what_loses_writes_of_a_migration_stops(version: tuple[int, ...]) -> None:
    assert any(bug.severity == "stop" for bug in bugs_of(version))


def test_a_patch_that_is_not_confirmed_is_not_named() -> None:
    (bug,) = (bug for bug in bugs_of((7, 0, 14)) if bug.ticket == "SERVER-94315")
    assert bug.remedy == "bring it to the newest patch of 7.0: which one mends it is not confirmed"
    assert bug.severity == "note"


@pytest.mark.parametrize("bug", KNOWN_BUGS, ids=lambda bug: f"{bug.ticket} {bug.first}")
def test_every_bug_ends_after_it_begins_and_has_a_remedy(bug: KnownBug) -> None:
    assert bug.first < bug.fixed
    assert bug.remedy.startswith(("upgrade to", "bring it", "no release"))
    assert bug.fixed != NEWEST or "no release" in bug.remedy
