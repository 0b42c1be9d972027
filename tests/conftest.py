"""Fixtures for every test: the lab where a test asks for it; no network and an empty home for all."""

from __future__ import annotations

import pytest
from hypothesis import settings

from credscale.testing import isolated, lab, lab_client, no_network

# A busy machine is slow; what hangs is ended by pytest's own limit.
settings.register_profile("credscale", deadline=None)
settings.load_profile("credscale")

__all__ = ["isolated", "lab", "lab_client", "no_network"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the scenarios where several workers run: they wait for processes, and quick tests fill the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("scenario") is None)


@pytest.fixture(autouse=True)
def _guards(no_network: None, isolated: object) -> None:
    """Apply both guards to every test."""
