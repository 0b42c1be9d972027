"""Before a primary is killed it is certain that it comes back with its data."""

from __future__ import annotations

import pytest

from credscale.core.errors import PreconditionFailed
from credscale.redis_cluster.cluster.views import NodeView
from credscale.redis_cluster.drill import breaking
from tests.redis_cluster.drill.machines import FakeMachine

PATH = "/etc/redis/redis.conf"
VIEW = NodeView("10.0.0.1:7000", info={"config_file": PATH, "aof_enabled": 1})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({PATH: "port 7000\nappendonly no\n"}, f"{PATH} does not say appendonly yes"),
        ({PATH: "port 7000\n"}, f"{PATH} does not say appendonly yes"),
        ({}, "its configuration file cannot be read"),
    ],
)
def test_a_file_that_forgets_what_the_server_was_told(files: dict[str, str], said: str) -> None:
    with pytest.raises(PreconditionFailed, match=said):
        breaking._refuse_forgetful_start(FakeMachine(files=files), VIEW)


def test_a_file_that_keeps_it() -> None:
    machine = FakeMachine(files={PATH: 'appendonly "yes"\n'})
    breaking._refuse_forgetful_start(machine, VIEW)
    assert machine.ran == []
