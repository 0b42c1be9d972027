"""The step that accepts a host's key once somebody has compared its fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.machines import host_keys, known_hosts
from credscale.core.step import Finding, step

if TYPE_CHECKING:
    from credscale.core.context import Context


@step()
def accept_host_key(ctx: Context, *, host: str, fingerprint: str) -> Finding:
    """Accept the key of a host that is not known yet, if it is the one whose fingerprint you give.

    Read the fingerprint on the host's own console, not over the network: `ssh-keygen -lf
    /etc/ssh/ssh_host_ed25519_key.pub`. The key is written to the host's known_hosts. A key that differs from a known
    one is never replaced by this.

    Args:
        host: its name in the section hosts.
        fingerprint: as ssh-keygen prints it, SHA256: and 43 characters.
    """
    hosts = ctx.environment.hosts
    if host not in hosts:
        raise EnvironmentInvalid(f"no host {host!r} in the section hosts. Known: {', '.join(hosts) or 'none'}")
    expected = known_hosts.check_fingerprint(fingerprint)
    entry, through = hosts[host], hosts[host].jump
    jump = (through, hosts[through]) if through is not None else None
    kind, shown, known = host_keys.offered_key(host, entry, jump, environment=ctx.environment.name)
    if shown != expected:
        raise PreconditionFailed(
            f"{host} ({entry.address}:{entry.port}) shows the key {kind} {shown}, expected was {expected}. Nothing "
            "was changed. Either the fingerprint is of another key or host, or somebody answers in its place: look "
            "on its console"
        )
    if known:
        return Finding(f"the key of {host} is known already")
    what = f"accept the key {kind} {shown} of {host} ({entry.address}:{entry.port})"
    path = ctx.apply(what, host_keys.accept_host_key, host, entry, expected, jump)
    unwritten = VerificationFailed(f"the key of {host} was written to {path}, but is still not known from there")
    ctx.require(host_keys.offered_key(host, entry, jump)[2], unwritten)
    return Finding(f"the key of {host} is known now", {"known_hosts": path, "fingerprint": shown})
