"""The real cluster, shared by the module and built by its first test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.testing import require
from tests.scenarios.real_mongo.cluster import RealCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Yield a cluster of MongoDB's own programs; skip, saying so, where there are none."""
    made = RealCluster(tmp_path_factory.mktemp("real"), require("mongo"))
    try:
        yield made
    finally:
        made.down()
