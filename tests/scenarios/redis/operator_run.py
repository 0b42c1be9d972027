"""One operator's run on a Redis Cluster: a change, a wait for a key, another change. Started by test_lease.py.

python -m tests.scenarios.redis.operator_run ENVIRONMENT KEY AWAITED
"""

from __future__ import annotations

import sys

from credscale import Context, Finding, runbook, step
from credscale.core.runbook import Runbook
from credscale.frontends.run import Flags, run


@step()
def write_twice(ctx: Context, *, key: str, awaited: str) -> Finding:
    """Write a key, wait until another one is there, and write again."""
    client = ctx.clients.redis_cluster()
    ctx.apply(f"set {key} to began", client.set, key, "began")
    if awaited:
        ctx.wait_until(f"{awaited} is there", lambda: (bool(client.exists(awaited)), "not yet"), 60.0, every=0.1)
    ctx.apply(f"set {key} to done", client.set, key, "done")
    return Finding("written")


@runbook(target="redis")
def operator_run(ctx: Context, *, key: str, awaited: str) -> None:
    """Write a key twice."""
    write_twice(ctx, key=key, awaited=awaited)


if __name__ == "__main__":
    made = Runbook(operator_run.function, (), has_notebook=False, target="redis")
    raise SystemExit(run(made, Flags(env=sys.argv[1], params={"key": sys.argv[2], "awaited": sys.argv[3]})))
