"""The environment file: one YAML inventory, checked to the last key.

Every error names file, line and key; an unknown key comes with the nearest valid one. Imported only when a command
really needs an environment, because pydantic would slow ``invoke --list`` down.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from credscale.core.errors import EnvironmentInvalid, UnknownTarget
from credscale.core.secrets import has_password, is_reference

if TYPE_CHECKING:
    from datetime import datetime

ENVIRONMENTS = Path("runbooks/environments")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")


def _clock(text: str) -> str:
    if not _CLOCK.match(text):
        raise ValueError(f"{text!r} is not a time of day HH:MM (00:00 to 23:59)")
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port with a port from 1 to 65535")
    return text


def _reference(text: str) -> str:
    if not is_reference(text):
        raise ValueError("must be a secret reference: env:NAME, file:PATH or keyring:SERVICE/USER")
    return text


Clock = Annotated[str, AfterValidator(_clock)]
Address = Annotated[str, AfterValidator(_address)]
Reference = Annotated[str, AfterValidator(_reference)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MaintenanceWindow(_Section):
    """When changes are allowed, in local time."""

    timezone: str = "UTC"
    days: tuple[Day, ...] = _DAYS
    start: Clock
    stop: Clock

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"unknown time zone {name!r}; use an IANA name such as Europe/Berlin") from None
        return name

    def contains(self, moment: datetime) -> bool:
        """Tell whether an aware moment lies inside; a window over midnight belongs to the day it starts on."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        now, day = local.strftime("%H:%M"), local.weekday()
        if self.start <= self.stop:
            return _DAYS[day] in self.days and self.start <= now <= self.stop
        if now >= self.start:
            return _DAYS[day] in self.days
        return now <= self.stop and _DAYS[day - 1] in self.days


class Policy(_Section):
    """What must hold before a run may change anything."""

    confirm: Literal["none", "yes", "type-name"] = "yes"
    require_ticket: bool = False
    maintenance_window: MaintenanceWindow | None = None

    @field_validator("confirm", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return "yes" if value is True else value  # YAML 1.1 reads a bare yes as true


class ReplicaSet(_Section):
    """A replica set and its members."""

    replica_set: str
    members: list[Address] = Field(min_length=1)


class Mongo(_Section):
    """A sharded cluster."""

    uri: str
    config_servers: ReplicaSet | None = None
    shards: list[ReplicaSet] = Field(default_factory=list)
    routers: list[Address] = Field(default_factory=list)

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if is_reference(uri):
            return uri
        if has_password(uri):
            raise ValueError("holds a password; put the connection string elsewhere and name it: env:NAME or file:PATH")
        if not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must be a secret reference or start with mongodb://")
        for node in uri.split("://", 1)[1].split("/")[0].split(","):
            if ":" in node:
                _address(node)
        return uri


class Redis(_Section):
    """A Redis Cluster."""

    nodes: list[Address] = Field(min_length=1)
    password: Reference | None = None


class Host(_Section):
    """A machine reached over SSH."""

    address: str
    port: int = Field(22, ge=1, le=65535)
    user: str | None = None
    key: str | None = None
    jump: str | None = None
    known_hosts: str | None = None


class Lab(_Section):
    """The embedded cluster on this machine; an environment with this section starts it by itself."""

    directory: str = ".credscale/lab"
    documents: int = Field(20_000, ge=0)
    engine: Literal["auto", "real", "simulated"] = "auto"


class Environment(_Section):
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
        return Environment.model_validate(data | {"path": path.resolve()})
    except ValidationError as error:
        problems = [_explain(path, root, problem) for problem in error.errors(include_input=False, include_url=False)]
        raise EnvironmentInvalid("\n".join(problems)) from None


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


def _explain(path: Path, root: yaml.Node | None, problem: Any) -> str:
    location = tuple(problem["loc"])
    key = ".".join(str(part) for part in location)
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
