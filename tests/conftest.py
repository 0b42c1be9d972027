"""Fixtures for every test: the lab where a test asks for it; no network and an empty home for all."""

from __future__ import annotations

import pytest

from credscale.testing import isolated, lab, lab_client, no_network

__all__ = ["isolated", "lab", "lab_client", "no_network"]


@pytest.fixture(autouse=True)
def _guards(no_network: None, isolated: object) -> None:
    """Apply both guards to every test."""
