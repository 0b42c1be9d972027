"""A host that runs were sent to before, for all scenarios of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.testing import require
from tests.scenarios.remote.on_site import Job, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield a site whose host is prepared by a run that changed nothing."""
    require("ssh")
    site = Site(tmp_path_factory.mktemp("on") / "site")
    try:
        command = Job(site, "before").start("--dry-run")
        assert command.end() == 0, command.shown
        yield site
    finally:
        site.close()


@pytest.fixture
def site(prepared: Site) -> Iterator[Site]:
    """Yield a site whose host is prepared; what a test leaves running there is ended."""
    yield prepared
    prepared.tidy()


@pytest.fixture
def job(site: Site, request: pytest.FixtureRequest) -> Job:
    """Return a job of this test's own."""
    return Job(site, request.node.name)
