"""The files of a process: pure rendering. There is no default that lets an unknown client in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from credscale.core.addresses import is_loopback
from credscale.core.errors import EnvironmentInvalid
from credscale.core.machines.files import File
from credscale.mongo.deploy.layout import CONFIG, ROUTER, UNITS

if TYPE_CHECKING:
    from credscale.core.sections import Deploy
    from credscale.mongo.deploy.layout import Layout, Process

HEADER = "# Written by credscale mongo-deploy: edit the environment file and run it again.\n"
KEY_MODE, CONFIG_MODE, FOLDER_MODE = 0o400, 0o644, 0o700
_KEY = re.compile(r"[A-Za-z0-9+/=\s]+")


def check_key(text: str) -> bytes:
    """Return the contents of a key file after checking what the server would refuse (§2.1).

    Raises:
        EnvironmentInvalid: it is not 6 to 1024 base64 characters; the message holds none of them.
    """
    length = len("".join(text.split()))
    if not _KEY.fullmatch(text) or not 6 <= length <= 1024:
        raise EnvironmentInvalid(
            "mongo.deploy.security.key_file must hold 6 to 1024 base64 characters. "
            "Make one with: openssl rand -base64 756"
        )
    return text.strip().encode() + b"\n"


def files_of(process: Process, layout: Layout, key: str | None, program: str) -> tuple[File, ...]:
    """Return the files of a process.

    Args:
        process: whose.
        layout: the whole cluster, which routers have to know.
        key: the contents of the key file; None without one.
        program: the absolute path of its program on its machine, for the systemd unit.
    """
    owner = layout.deploy.user
    files = [File(process.config, yaml_text(settings_of(process, layout)), CONFIG_MODE, owner=owner)]
    if key is not None:
        files.insert(0, File(process.key, check_key(key), KEY_MODE, secret=True, owner=owner))
    if layout.deploy.start == "systemd":
        files.append(File(f"{UNITS}/{process.unit}", unit_text(process, layout.deploy, program), CONFIG_MODE))
    return tuple(files)


def settings_of(process: Process, layout: Layout) -> dict[str, Any]:
    """Return the configuration of a process.

    The port is always explicit: a role alone would move it to 27018 or 27019 (§2.4).
    """
    deploy = layout.deploy
    settings: dict[str, Any] = {
        "systemLog": {"destination": "file", "path": process.log, "logAppend": True},
        "net": {
            "port": process.port,
            "bindIp": bind_ip(process, deploy),
            "unixDomainSocket": {"enabled": False},
        },
    }
    if ":" in settings["net"]["bindIp"]:
        settings["net"]["ipv6"] = True
    if deploy.tls is not None:
        settings["net"]["tls"] = {
            "mode": deploy.tls.mode,
            "certificateKeyFile": deploy.tls.certificate,
            "CAFile": deploy.tls.ca,
            "allowConnectionsWithoutCertificates": not deploy.tls.clients_need_certificate,
        }
    if deploy.start == "process":
        settings["processManagement"] = {"fork": True, "pidFilePath": process.pid_file}
    if deploy.security != "none":
        settings["security"] = {"clusterAuthMode": "x509"} if deploy.security.x509 else {"keyFile": process.key}
        if process.role != ROUTER:  # a router has no such option: it authorizes whenever it has a key
            settings["security"]["authorization"] = "enabled"
    if process.role == ROUTER:
        return settings | {"sharding": {"configDB": layout.config_string}}
    settings["storage"] = {"dbPath": process.data}
    if deploy.cache_gb is not None:
        settings["storage"]["wiredTiger"] = {"engineConfig": {"cacheSizeGB": deploy.cache_gb}}
    settings["replication"] = {"replSetName": process.replica_set}
    settings["sharding"] = {"clusterRole": "configsvr" if process.role == CONFIG else "shardsvr"}
    return settings


def bind_ip(process: Process, deploy: Deploy) -> str:
    """Return where a process listens: on its own address and, for the first user, on the loopback."""
    if deploy.bind_ip:
        wanted = deploy.bind_ip.split(",")
        everywhere = {"0.0.0.0", "*", "::,0.0.0.0"} & {*wanted, deploy.bind_ip}  # noqa: S104 - the owner's wish
        return deploy.bind_ip if everywhere or any(map(is_loopback, wanted)) else f"127.0.0.1,{deploy.bind_ip}"
    return "127.0.0.1" if process.host in ("localhost", "127.0.0.1") else f"127.0.0.1,{process.host}"


def yaml_text(settings: dict[str, Any]) -> bytes:
    """Return a configuration as the file holds it."""
    return (HEADER + yaml.safe_dump(settings, sort_keys=False)).encode()


def unit_text(process: Process, deploy: Deploy, program: str) -> bytes:
    """Return the systemd unit of a process.

    Limits are those that MongoDB's manual recommends. Transparent huge pages are the machine's setting, wanted off up
    to 7.0 and on since 8.0, so a unit of one process leaves them alone. Stopping waits long enough for a checkpoint.
    """
    user = f"User={deploy.user}\n" if deploy.user else ""
    return (
        f"{HEADER}[Unit]\n"
        f"Description=MongoDB {process.where}\n"
        "After=network-online.target time-sync.target\n"
        "Wants=network-online.target\n"
        "\n[Service]\n"
        f"{user}ExecStart={program} --config {process.config}\n"
        "Restart=on-failure\n"
        "RestartSec=5\n"
        "TimeoutStopSec=300\n"
        "LimitFSIZE=infinity\n"
        "LimitCPU=infinity\n"
        "LimitAS=infinity\n"
        "LimitMEMLOCK=infinity\n"
        "LimitNOFILE=64000\n"
        "LimitNPROC=64000\n"
        "TasksMax=infinity\n"
        "\n[Install]\n"
        "WantedBy=multi-user.target\n"
    ).encode()
