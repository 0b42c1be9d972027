"""Create a cluster in this process and kill it after its first change, or never: ``after``, ``never``.

python interrupted_create.py after ENVIRONMENT
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.errors import CredscaleError
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.redis_cluster.deploy.creation import create_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

moment, path = sys.argv[1:3]
real_apply = Context.apply


def apply(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Make the change as always, but die after it."""
    print(what, flush=True)
    value = real_apply(self, what, func, *args, **kwargs)
    if moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return value


Context.apply = apply  # type: ignore[method-assign]
secrets, environment = Secrets(), load(path)
ctx = Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)
try:
    create_cluster(ctx, timeout=20.0)
except CredscaleError as error:
    sys.exit(f"{type(error).__name__}: {error}")
finally:
    ctx.clients.close()
