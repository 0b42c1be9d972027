"""Rebalance in this process, and die by SIGKILL: right after its n-th ``tell`` or ``migrate``, or within a MIGRATE.

For the last (``pause``) the target answers nobody for so long that the source gives up the receipt of its keys.

python -m tests.scenarios.redis.interrupted_reshard ENVIRONMENT WEIGHTS tell|migrate|pause N
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.redis_cluster.resharding import moving
from runbooks.redis_rebalance import redis_rebalance

path, weights, where, number = sys.argv[1:5]
name = {"tell": "tell", "migrate": "_migrate", "pause": "_migrate"}[where]
PAUSE_MILLISECONDS, LIFE_SECONDS = 1500, 0.3
real, calls = getattr(moving, name), 0


def dying(*args: Any, **kwargs: Any) -> Any:
    """Do it as always, and die after or within the n-th time."""
    global calls
    if where == "pause" and calls == int(number) - 1:
        args[0].target.client.execute_command("CLIENT", "PAUSE", PAUSE_MILLISECONDS, "ALL")
        threading.Timer(LIFE_SECONDS, os.kill, (os.getpid(), signal.SIGKILL)).start()
    done = real(*args, **kwargs)
    calls += 1
    if calls == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return done


setattr(moving, name, dying)
secrets, environment = Secrets(), load(path)
ctx = Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)
redis_rebalance(ctx, weights=weights)
