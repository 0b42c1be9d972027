"""What applications have to be told: the guide's environment variables and client code. Pure; no password is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from credscale.redis_cluster.deploy.layout import Layout

PASSWORD = "REDIS_CLUSTER_PASSWORD"  # noqa: S105 - the variable's name


def login_of(layout: Layout) -> tuple[str, str]:
    """Return as whom applications log in, and the reference to the password; both empty where nobody has to.

    The first of ``deploy.users``, else the tool's own user; the user's name is empty for the user default.
    """
    if layout.deploy.users:
        return layout.deploy.users[0].name, layout.deploy.users[0].password
    return layout.redis.user or "", layout.redis.password or ""


def variables(layout: Layout) -> dict[str, str]:
    """Return the environment variables of an application; instead of the password it names where that is kept."""
    user, reference = login_of(layout)
    found = {"REDIS_CLUSTER_MODE": "true", "REDIS_CLUSTER_NODES": ",".join(node.public for node in layout.nodes)}
    if layout.deploy.tls is not None:
        found["REDIS_CLUSTER_TLS"] = "true"
    if user:
        found["REDIS_CLUSTER_USERNAME"] = user
    if reference:
        found[PASSWORD] = f"(the secret that {reference} stands for)"
    return found


def env_text(layout: Layout) -> str:
    """Return the variables as a file; the password is a comment, to be set from where secrets are kept."""
    found = variables(layout)
    secret = found.pop(PASSWORD, None)
    text = "".join(f"{name}={value}\n" for name, value in found.items())
    return text + (f"# {PASSWORD} comes from your secret store: {secret}\n" if secret is not None else "")


def typescript(layout: Layout) -> str:
    """Return the guide's client for node-redis, with the login and TLS of this cluster."""
    tls = layout.deploy.tls is not None
    user, reference = login_of(layout)
    nodes = "".join(f"    {{ url: '{'rediss' if tls else 'redis'}://{node.public}' }},\n" for node in layout.nodes)
    login = (f"    username: '{user}',\n" if user else "") + (
        f"    password: process.env.{PASSWORD},\n" if reference else ""
    )
    return (
        "import { createCluster } from 'redis';\n\n"
        "const redisCluster = createCluster({\n"
        f"  rootNodes: [\n{nodes}  ],\n"
        "  defaults: {\n"
        f"{login}"
        "    socket: {\n"
        f"{'      tls: true,' + chr(10) if tls else ''}"
        "      connectTimeout: 5000,\n"
        "      reconnectStrategy: (retries) => Math.min(retries * 100, 3000),\n"
        "    },\n"
        "  },\n"
        "});\n"
    )


def python(layout: Layout) -> str:
    """Return the same for redis-py."""
    user, reference = login_of(layout)
    nodes = "".join(
        f"        ClusterNode({node.public.rpartition(':')[0].strip('[]')!r}, {node.public.rpartition(':')[2]}),\n"
        for node in layout.nodes
    )
    extra = [f"username={user!r}"] if user else []
    extra += [f'password=os.environ["{PASSWORD}"]'] if reference else []
    extra += ["ssl=True"] if layout.deploy.tls is not None else []
    return (
        ("import os\n\n" if reference else "") + "from redis.cluster import ClusterNode, RedisCluster\n\n"
        "cluster = RedisCluster(\n"
        f"    startup_nodes=[\n{nodes}    ],\n"
        f"{''.join(f'    {each},{chr(10)}' for each in extra)}"
        "    socket_timeout=2,\n"
        "    socket_connect_timeout=2,\n"
        ")\n"
    )
