"""Run a deployment in this process and kill it before or after its first change: ``before``, ``after``.

python interrupted_deploy.py before ENVIRONMENT [CONVERT]
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from runbooks.mongo_deploy import mongo_deploy

if TYPE_CHECKING:
    from collections.abc import Callable

moment, path = sys.argv[1:3]
real_apply = Context.apply


def apply(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Make the change as always, but die beside it."""
    print(what, flush=True)
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real_apply(self, what, func, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


Context.apply = apply  # type: ignore[method-assign]
secrets, environment = Secrets(), load(path)
ctx = Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)
mongo_deploy(ctx, convert=sys.argv[3] if len(sys.argv) > 3 else "", allow_downtime=True, timeout=30.0)
