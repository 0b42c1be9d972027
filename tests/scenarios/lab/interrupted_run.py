"""Run a migration in this process and kill it before or after its first change: ``before``, ``after`` or ``never``.

python interrupted_run.py before ENVIRONMENT NAMESPACE
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from credscale.core.context import Context
from credscale.frontends.run import Flags, run
from runbooks.shard_migrate import shard_migrate

if TYPE_CHECKING:
    from collections.abc import Callable

moment, environment, namespace = sys.argv[1:4]
real_apply = Context.apply


def apply(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Make the change as always, but die beside it."""

    def deadly(*inner: Any, **named: Any) -> Any:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = func(*inner, **named)
        if moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return real_apply(self, what, deadly, *args, **kwargs)


Context.apply = apply  # type: ignore[method-assign]
sys.exit(run(shard_migrate, Flags(env=environment, in_process=True, params={"namespace": namespace})))
