"""The environment file: one YAML inventory, checked to the last key.

Every error names file, line and key; an unknown key comes with the nearest valid one. Imported only when a command
really needs an environment, because pydantic would slow ``invoke --list`` down.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from credscale.core.addresses import host_of, is_loopback
from credscale.core.errors import EnvironmentInvalid, UnknownTarget
from credscale.core.sections import (
    Deploy,
    Host,
    Lab,
    MaintenanceWindow,
    Mongo,
    Policy,
    Redis,
    RedisDeploy,
    Section,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    Location = tuple[int | str, ...]

__all__ = ["ENVIRONMENTS", "Environment", "Host", "MaintenanceWindow", "Policy", "find", "load", "names"]

ENVIRONMENTS = Path("runbooks/environments")
_NOWHERE = (
    "is on no machine of the section hosts: add a host with this name or address, or use 127.0.0.1 for this machine"
)


class Environment(Section):
    """One environment: targets and rules."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    policy: Policy = Field(default_factory=Policy)
    lab: Lab | None = None
    mongo: Mongo | None = None
    redis: Redis | None = None
    hosts: dict[str, Host] = Field(default_factory=dict)
    services: dict[str, Any] = Field(default_factory=dict)
    notify: list[dict[str, Any]] = Field(default_factory=list)
    tickets: dict[str, Any] = Field(default_factory=dict)
    runbooks: dict[str, dict[str, str | int | float | bool]] = Field(default_factory=dict)
    path: Path = Field(default=Path(), exclude=True)

    def machine_of(self, address: str) -> str | None:
        """Return the host of the inventory on which a process listens; empty for this machine, None when unknown.

        Args:
            address: ``host:port``; the host is a name in ``hosts``, the address of one, or a loopback name.
        """
        host = host_of(address)
        for name, entry in self.hosts.items():
            if host in (name, entry.address):
                return name
        return "" if is_loopback(host) else None

    def defaults_for(self, runbook: str, inherited: set[str]) -> dict[str, str | int | float | bool]:
        """Return this environment's own parameter values for a runbook; flags override them.

        Args:
            runbook: its task name.
            inherited: parameters that a single step shares with runbooks; it takes their values.
        """
        merged = {name: value for section in self.runbooks.values() for name, value in section.items()}
        return {name: merged[name] for name in inherited & set(merged)} | self.runbooks.get(runbook, {})


def names() -> list[str]:
    """Return the environments in ``runbooks/environments``; examples are left out."""
    return sorted(path.stem for path in ENVIRONMENTS.glob("*.yaml") if not path.stem.endswith(".example"))


def find(name: str) -> Path:
    """Return the file behind ``--env``: a name in ``runbooks/environments`` or a path.

    Raises:
        UnknownTarget: there is none; the message lists what there is and the nearest name.
    """
    for candidate in (ENVIRONMENTS / f"{name}.yaml", Path(name)):
        if candidate.is_file():
            return candidate
    near = difflib.get_close_matches(name, names(), 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(names()) or "none"
    raise UnknownTarget(
        f"no environment {name!r}.{hint} Known in {ENVIRONMENTS}: {known}; or give a path to a YAML file"
    )


def load(name: str) -> Environment:
    """Read and check an environment.

    Args:
        name: as for ``find``.

    Raises:
        UnknownTarget: no such file.
        EnvironmentInvalid: names file, line and key of the first problem of each kind.
    """
    path = find(name)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise EnvironmentInvalid(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise EnvironmentInvalid(f"{path}: line {line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise EnvironmentInvalid(f"{path}: line 1: an environment is a mapping that starts with 'name: ...'")
    _refuse_twins(path, root)
    if "path" in data:
        raise EnvironmentInvalid(f"{path}: line {_line(root, ('path',))}: path: unknown key")
    try:
        environment = Environment.model_validate(data | {"path": path.resolve()})
    except ValidationError as error:
        problems = [_explain(path, root, problem) for problem in error.errors(include_input=False, include_url=False)]
        raise EnvironmentInvalid("\n".join(problems)) from None
    problems = [
        f"{path}: line {_line(root, place)}: {_dotted(place)}: {text}" for place, text in _mismatches(environment)
    ]
    if problems:
        raise EnvironmentInvalid("\n".join(problems))
    return environment


def _mismatches(environment: Environment) -> Iterator[tuple[Location, str]]:
    """Find what each section for itself allows, but not together with the others."""
    for name, host in environment.hosts.items():
        if host.jump is not None and (host.jump == name or host.jump not in environment.hosts):
            yield ("hosts", name, "jump"), f"{host.jump!r} is not another host of the section hosts"
    if environment.mongo is not None and environment.mongo.deploy is not None:
        yield from _mongo_mismatches(environment, environment.mongo, environment.mongo.deploy)
    if environment.redis is not None and environment.redis.deploy is not None:
        yield from _redis_mismatches(environment, environment.redis, environment.redis.deploy)


def _mongo_mismatches(environment: Environment, mongo: Mongo, deploy: Deploy) -> Iterator[tuple[Location, str]]:
    for key, present in (
        ("config_servers", mongo.config_servers),
        ("shards", mongo.shards),
        ("routers", mongo.routers),
    ):
        if not present:
            yield ("mongo", "deploy"), f"needs mongo.{key}"
    seen: set[str] = set()
    for place, address in _members(mongo):
        if address in seen:
            yield place, f"{address} stands here twice"
        seen.add(address)
        if environment.machine_of(address) is None:
            yield place, f"{address} {_NOWHERE}"
        if deploy.security == "none" and not is_loopback(host_of(address)):
            yield (
                place,
                (
                    f"{address} would be open to everybody: security: none is for clusters whose addresses are all "
                    "127.0.0.1 or localhost. Give mongo.deploy.security a key_file"
                ),
            )
    if deploy.security == "none" and deploy.bind_ip:
        yield ("mongo", "deploy", "bind_ip"), "is not allowed with security: none, which binds to the loopback only"


def _redis_mismatches(environment: Environment, redis: Redis, deploy: RedisDeploy) -> Iterator[tuple[Location, str]]:
    shards, rest = divmod(len(redis.nodes), deploy.replicas + 1)
    if rest or shards < 3:
        yield (
            ("redis", "nodes"),
            (
                f"{len(redis.nodes)} nodes with deploy.replicas: {deploy.replicas} make no cluster: it takes at least "
                f"{3 * (deploy.replicas + 1)}, in a multiple of {deploy.replicas + 1}"
            ),
        )
    for number, address in enumerate(redis.nodes):
        place: Location = ("redis", "nodes", number)
        if redis.nodes.index(address) != number:
            yield place, f"{address} stands here twice"
        if environment.machine_of(address) is None:
            yield place, f"{address} {_NOWHERE}"
        open_to_all = redis.password is None and not (deploy.tls and deploy.tls.clients_need_certificate)
        if open_to_all and not is_loopback(host_of(address)):
            yield place, f"{address} would be open to everybody: give redis.password a secret reference"
    for address in deploy.announce:
        if address not in redis.nodes:
            yield ("redis", "deploy", "announce", address), f"{address} is not one of redis.nodes"
    if (deploy.tls is None) != (redis.tls is None):
        yield ("redis", "deploy"), "redis.tls and redis.deploy.tls belong together: give both or neither"


def _members(mongo: Mongo) -> Iterator[tuple[Location, str]]:
    """Yield the address of every process with its place in the file."""
    for number, address in enumerate(mongo.config_servers.members if mongo.config_servers is not None else ()):
        yield ("mongo", "config_servers", "members", number), address
    for shard, replica_set in enumerate(mongo.shards):
        for number, address in enumerate(replica_set.members):
            yield ("mongo", "shards", shard, "members", number), address
    for number, address in enumerate(mongo.routers):
        yield ("mongo", "routers", number), address


def _refuse_twins(path: Path, node: yaml.Node | None) -> None:
    """YAML keeps the last of two equal keys without a word; in an inventory that is a mistake."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise EnvironmentInvalid(
                    f"{path}: line {key.start_mark.line + 1}: {key.value}: the key stands here twice"
                )
            seen.add(key.value)
            _refuse_twins(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(path, item)


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    line = node.start_mark.line + 1 if node is not None else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _explain(path: Path, root: yaml.Node | None, problem: Any) -> str:
    location = tuple(problem["loc"])
    key = _dotted(location)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), valid, 1, 0.5)
        message = "unknown key." + (f" Did you mean {near[0]!r}?" if near else "") + f" Valid here: {', '.join(valid)}"
    elif problem["type"] == "missing":
        message = "is required and missing"
    return f"{path}: line {_line(root, location)}: {key}: {message}"


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Environment
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation) or model
    return sorted(set(model.model_fields) - {"path"})


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
