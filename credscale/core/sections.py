"""The sections of an environment file, each checked for itself; unknown keys are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from credscale.core.secrets import has_password, is_reference

if TYPE_CHECKING:
    from datetime import datetime

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PATH = re.compile(r"^/[A-Za-z0-9._/+@-]*$")
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


def _absolute(text: str) -> str:
    """Paths reach configuration files and systemd units, whose quoting rules differ; these characters need none."""
    if not _PATH.match(text):
        raise ValueError(f"{text!r} is not an absolute path of letters, digits and . _ - + @ /")
    return text


Clock = Annotated[str, AfterValidator(_clock)]
Address = Annotated[str, AfterValidator(_address)]
Reference = Annotated[str, AfterValidator(_reference)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MaintenanceWindow(Section):
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


class Policy(Section):
    """What must hold before a run may change anything; drills break something on purpose, and a lab allows them."""

    confirm: Literal["none", "yes", "type-name"] = "yes"
    require_ticket: bool = False
    maintenance_window: MaintenanceWindow | None = None
    allow_drills: bool = False

    @field_validator("confirm", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return "yes" if value is True else value  # YAML 1.1 reads a bare yes as true


class ReplicaSet(Section):
    """A replica set and its members."""

    replica_set: str
    members: list[Address] = Field(min_length=1)


class Security(Section):
    """How the cluster's processes prove to each other who they are; clients then have to log in as well.

    Exactly one of a key file, whose contents every process gets, and the certificates of the section ``tls``.
    """

    key_file: Reference | None = None
    x509: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> Security:
        if (self.key_file is None) == (not self.x509):
            raise ValueError("give either key_file (a secret reference) or x509: true")
        return self


class Tls(Section):
    """Certificates, as paths on each of the cluster's machines; how this tool connects stands in the URI."""

    mode: Literal["requireTLS", "preferTLS", "allowTLS"] = "requireTLS"
    certificate: AbsolutePath
    ca: AbsolutePath
    clients_need_certificate: bool = False


class Admin(Section):
    """The first user, who may do everything; made through the localhost exception."""

    user: str = Field("admin", pattern=r"^[^\s:/@?#\[\]]+$")
    password: Reference


class Deploy(Section):
    """How ``mongo-deploy`` sets the processes up; everything of one process lies in ``directory``/its port."""

    security: Security | Literal["none"]
    admin: Admin | None = None
    tls: Tls | None = None
    start: Literal["systemd", "process"] = "systemd"
    directory: AbsolutePath = "/var/lib/mongodb"
    binaries: AbsolutePath | Literal[""] = ""
    user: str = Field("", pattern=r"^[a-z_][a-z0-9_-]*$|^$")
    bind_ip: str = Field("", pattern=r"^[A-Za-z0-9.:,*_-]*$")
    cache_gb: float | None = Field(None, ge=0.25)
    default_write_concern: Literal["majority"] | Annotated[int, Field(ge=1, le=50)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Deploy:
        if self.security == "none":
            if self.admin is not None:
                raise ValueError("security: none has no users; remove admin, or give a key_file")
            return self
        if self.admin is None:
            raise ValueError("admin is required: without it nobody could log in to what this builds")
        if self.security.x509 and self.tls is None:
            raise ValueError("x509 needs the section tls")
        if self.start == "process" and self.user:
            raise ValueError("user needs start: systemd; plain processes run as the user who logs in")
        return self


class Mongo(Section):
    """A sharded cluster."""

    uri: str
    config_servers: ReplicaSet | None = None
    shards: list[ReplicaSet] = Field(default_factory=list)
    routers: list[Address] = Field(default_factory=list)
    deploy: Deploy | None = None

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


class RedisTls(Section):
    """How this tool checks Redis nodes, and proves itself to them; paths of files on this machine."""

    ca: str
    certificate: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _pair(self) -> RedisTls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self


class RedisNodeTls(Section):
    """The nodes' own certificates, as paths on each of their machines."""

    certificate: AbsolutePath
    key: AbsolutePath
    ca: AbsolutePath
    clients_need_certificate: bool = False


class RedisUser(Section):
    """An application's user, with the rules that ACL SETUSER takes.

    Bull asks INFO for the version; before 7.0 all of CLUSTER, by which clients find the nodes, is administration.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    password: Reference
    rules: str = Field(
        "~* &* +@all -@admin -@dangerous +info "
        "+cluster|slots +cluster|shards +cluster|nodes +cluster|info +cluster|myid +cluster|keyslot",
        pattern=r"^[^\n\r#<>]*$",
    )


class Compose(Section):
    """How the nodes run in containers; their configuration is mounted, so that no password is in the Compose file.

    With ``host`` they use their machine's network; with ``bridge`` their own, where ``redis.deploy.announce`` has to
    say under which addresses both the nodes and the clients outside reach each of them (§1.6).
    """

    image: str = Field("redis:7-alpine", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$")
    project: str = Field("credscale-redis", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    network: Literal["host", "bridge"] = "host"


class RedisDeploy(Section):
    """How ``redis-deploy`` sets the nodes up; everything of one node lies in ``directory``/its port.

    ``holds`` says what applications keep there, by which evictions are judged; ``announce`` gives the address that a
    node of ``redis.nodes`` tells peers and clients where it is not the one in the inventory; ``timeout_ms`` is
    cluster-node-timeout.
    """

    replicas: int = Field(1, ge=0, le=5)
    start: Literal["systemd", "process", "compose"] = "systemd"
    directory: AbsolutePath = "/var/lib/redis"
    binaries: AbsolutePath | Literal[""] = ""
    user: str = Field("", pattern=r"^[a-z_][a-z0-9_-]*$|^$")
    bind: str = Field("", pattern=r"^[A-Za-z0-9.:* _-]*$")
    maxmemory: Literal["unlimited"] | Annotated[str, Field(pattern=r"^[1-9][0-9]*(mb|gb)$")]
    policy: Literal[
        "noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random",
        "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
    ] = "noeviction"  # fmt: skip
    holds: list[Literal["cache", "sessions", "queues"]] = Field(default=["cache", "sessions"])
    timeout_ms: int = Field(5000, ge=200, le=600_000)
    appendonly: bool = True
    full_coverage: bool = True
    users: list[RedisUser] = Field(default_factory=list)
    tls: RedisNodeTls | None = None
    announce: dict[Address, Address] = Field(default_factory=dict)
    compose: Compose = Field(default_factory=Compose)

    @model_validator(mode="after")
    def _complete(self) -> RedisDeploy:
        if self.start != "systemd" and self.user:
            raise ValueError("user needs start: systemd; plain processes run as the user who logs in")
        return self


class Redis(Section):
    """A Redis Cluster; without ``user`` the password is that of the user default.

    ``nodes`` is a list of addresses, or ``file:PATH`` of a file with one a line, as a lab writes it: there are none
    until it is up.
    """

    nodes: list[Address]
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$")
    password: Reference | None = None
    tls: RedisTls | None = None
    deploy: RedisDeploy | None = None

    @field_validator("nodes", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("file:"):
            path = Path(value.removeprefix("file:")).expanduser()
            return path.read_text(encoding="utf-8").split() if path.exists() else []
        if not isinstance(value, list) or not value:
            raise ValueError("give at least one host:port, or file:PATH of a file with one a line")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Redis:
        if self.user is not None and self.password is None:
            raise ValueError("user needs a password")
        return self


class Host(Section):
    """A machine reached over SSH.

    ``jump`` names another host of the inventory to go through. With ``key`` only that key is offered, otherwise those
    of the agent and ``~/.ssh``. With ``sudo`` every command runs through sudo: ``true`` where it asks for no password,
    else a reference to the password. ``connect_timeout`` (seconds) bounds everything up to the login. ``python`` and
    ``folder`` are the interpreter that ``--on`` uses there and where it keeps environments and runs.
    """

    address: str
    port: int = Field(22, ge=1, le=65535)
    user: str | None = None
    key: str | None = None
    jump: str | None = None
    known_hosts: str | None = None
    sudo: bool | str = False
    connect_timeout: float = Field(10, gt=0, le=300)
    python: str | None = None
    folder: str = "~/.credscale"

    @field_validator("python")
    @classmethod
    def _python(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/[^\x00-\x1f]+|[A-Za-z0-9_][A-Za-z0-9._+-]*", value):
            raise ValueError(f"{value!r} is neither an absolute path nor a program's name")
        return value

    @field_validator("folder")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not re.fullmatch(r"~?/[^\x00-\x1f]+", value):
            raise ValueError(f"{value!r} is neither an absolute path nor one below ~/")
        return value

    @field_validator("sudo", mode="before")
    @classmethod
    def _sudo(cls, value: object) -> object:
        if not isinstance(value, bool) and not (isinstance(value, str) and is_reference(value)):
            raise ValueError(
                "must be true, false, or a secret reference to the password, never the password itself: "
                "env:NAME, file:PATH or keyring:SERVICE/USER"
            )
        return value


class Lab(Section):
    """The embedded cluster on this machine; an environment with this section starts it by itself."""

    directory: str = ".credscale/lab"
    documents: int = Field(20_000, ge=0)
    engine: Literal["auto", "real", "simulated"] = "auto"
