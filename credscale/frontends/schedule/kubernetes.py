"""A Kubernetes Job or CronJob, with the environment file in a ConfigMap."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from credscale.core.errors import EnvironmentInvalid
from credscale.frontends.schedule.needs import HOME, needs_of

if TYPE_CHECKING:
    from credscale.frontends.schedule.asked import Asked
    from credscale.frontends.schedule.needs import Needs

STATE, INVENTORY = "/var/lib/credscale", "/etc/credscale"
USER_ID = 10001  # any but root; the volume's group, so that the claim can be written
SECRET_MODE = 0o440  # for the volume's group alone, which is the pod's
GRACE_SECONDS = 300  # for putting back what a run changed for its own time, after a polite kill
LATE_SECONDS = 600  # a start missed by more than this is left out
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUOTED = re.compile(r"[yYnN]|[-+.\d][-+.\w]*|.*[\r\x85\u2028\u2029].*", re.DOTALL)
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, so that the environment can be read in the ConfigMap.

    PyYAML writes plainly what kubectl's parser takes for a truth or a number (y, 1e3), and other ends of lines than \\n
    so that they are read as blanks.
    """

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Return a text as a node."""
        style = '"' if _QUOTED.fullmatch(text) else "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


@dataclass(frozen=True)
class Cluster:
    """Where in Kubernetes it runs.

    Args:
        image: holds the checkout, with credscale installed.
        claim: the PersistentVolumeClaim for evidence, state and the signing key.
        secret: the Secret behind the environment's references; may be empty where there are none.
        namespace: empty for that of whoever applies it.
        project: the absolute path of the checkout in the image.
    """

    image: str
    claim: str
    secret: str
    namespace: str
    project: str


def manifest(asked: Asked, cluster: Cluster) -> str:
    """Return the YAML of a Job, or of a CronJob, and its ConfigMap.

    Args:
        asked: what is to be run.
        cluster: where.

    Raises:
        EnvironmentInvalid: a name is not one of Kubernetes, or the environment needs what a pod has not got.
        Refused: the policy wants a ticket.
    """
    _check(asked, cluster)
    needs = needs_of(asked)
    if (needs.variables or needs.files) and not cluster.secret:
        keys = ", ".join([*needs.variables, *needs.files])
        raise EnvironmentInvalid(
            f"{asked.environment.path} refers to secrets. Give the Secret that holds them with --secret NAME; "
            f"its keys: {keys}"
        )
    documents = [_config_map(asked, cluster), _workload(asked, cluster, needs)]
    return _header(asked, cluster, needs) + dump(documents)


def dump(documents: list[dict[str, Any]]) -> str:
    """Return documents as YAML."""
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))


def arguments(asked: Asked) -> list[str]:
    """Return the command's words, of which Kubernetes expands none.

    There is nobody to ask: whoever applies the Job confirms it. Without a kernel, since it would need a writable
    project; the evidence is the same.
    """
    words = ["invoke", asked.runbook.name, f"--env={INVENTORY}/{asked.environment.name}.yaml", "--yes", "--in-process"]
    words += [f"--ticket={asked.ticket}"] if asked.ticket else []
    words += [f"--{name.replace('_', '-')}={value}" for name, value in asked.given.items()]
    return [unexpanded(word) for word in words]


def unexpanded(word: str) -> str:
    """Return a word of a container's command of which Kubernetes expands nothing: to it, two dollars are one."""
    return word.replace("$", "$$")


def _check(asked: Asked, cluster: Cluster) -> None:
    asked.require_ticket()
    if not cluster.image or re.search(r"\s", cluster.image):
        raise EnvironmentInvalid("--image NAME is missing: an image with the checkout, credscale installed in it")
    if not _NAME.fullmatch(cluster.claim):
        raise EnvironmentInvalid(
            f"--claim {cluster.claim!r}: give the PersistentVolumeClaim that keeps evidence and the signing key; "
            "without it both would end with the pod"
        )
    for flag, value, pattern in (("secret", cluster.secret, _NAME), ("namespace", cluster.namespace, _LABEL)):
        if value and not pattern.fullmatch(value):
            raise EnvironmentInvalid(f"--{flag} {value!r} is not a name in Kubernetes: a-z, 0-9 and dashes")
    if not PurePosixPath(cluster.project).is_absolute() or ":" in cluster.project:
        raise EnvironmentInvalid(f"--project {cluster.project!r}: give the absolute path of the checkout in the image")


def _name(asked: Asked, cluster: Cluster) -> str:
    """Return a name that differs where anything else does: a Job cannot be changed once it is there."""
    about = [arguments(asked), asked.cron, cluster.__dict__, asked.environment.path.read_text(encoding="utf-8")]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "-", f"{asked.runbook.name}-{asked.environment.name}")
    return f"{words[:42].strip('-')}-{digest}"  # a CronJob's name has 52 characters at most


def _metadata(asked: Asked, cluster: Cluster) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "credscale", "credscale/runbook": asked.runbook.name}
    namespace = {"namespace": cluster.namespace} if cluster.namespace else {}
    return {"name": _name(asked, cluster), **namespace, "labels": labels}


def _config_map(asked: Asked, cluster: Cluster) -> dict[str, Any]:
    environment = asked.environment
    text = environment.path.read_text(encoding="utf-8")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(asked, cluster),
        "data": {f"{environment.name}.yaml": text},
    }


def _workload(asked: Asked, cluster: Cluster, needs: Needs) -> dict[str, Any]:
    job = {
        "backoffLimit": 0,  # running it again is the resume, but a person decides
        "template": {
            "metadata": {
                "labels": _metadata(asked, cluster)["labels"],
                "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            },
            "spec": _pod(asked, cluster, needs),
        },
    }
    metadata = _metadata(asked, cluster)
    if not asked.cron:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}
    schedule = {
        "schedule": asked.cron,
        "timeZone": asked.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": LATE_SECONDS,
        "jobTemplate": {"spec": job},
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": schedule}


def _pod(asked: Asked, cluster: Cluster, needs: Needs) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "inventory", "configMap": {"name": _name(asked, cluster)}},
        {"name": "kept", "persistentVolumeClaim": {"claimName": cluster.claim}},
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if needs.files:
        items = [{"key": key, "path": key} for key in needs.files]
        secret = {"secretName": cluster.secret, "items": items, "defaultMode": SECRET_MODE}
        volumes.append({"name": "secrets", "secret": secret})
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",  # else every start opens the signing key to the group
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(asked, cluster, needs)],
        "volumes": volumes,
    }


def _container(asked: Asked, cluster: Cluster, needs: Needs) -> dict[str, Any]:
    plain = {
        "HOME": HOME,
        "USER": "credscale",  # the operator in the journal; the user has no entry in the image
        "CREDSCALE_ARTIFACTS": f"{STATE}/artifacts",
        "CREDSCALE_KEY_DIR": f"{STATE}/keys",
    }
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    environment += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": cluster.secret, "key": name}}} for name in needs.variables
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "inventory", "mountPath": INVENTORY, "readOnly": True},
        {"name": "kept", "mountPath": STATE, "subPath": "credscale"},
        {"name": "kept", "mountPath": f"{cluster.project}/.credscale", "subPath": "credscale/state"},
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
    ]
    mounts += [
        {"name": "secrets", "mountPath": place, "subPath": key, "readOnly": True} for key, place in needs.files.items()
    ]
    return {
        "name": "runbook",
        "image": cluster.image,
        "workingDir": cluster.project,
        "command": arguments(asked),
        "env": environment,
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _header(asked: Asked, cluster: Cluster, needs: Needs) -> str:
    """Return the comment that tells a person what to do with the file; it is ASCII, and one line stays one."""
    lines = [
        f"{asked.runbook.title} Runbook {asked.runbook.name} on {asked.environment.name}.",
        "Write it again rather than edit it:",
        f"  {asked.command}",
        "Applying it confirms its changes: kubectl apply -f FILE. The same again: kubectl replace --force -f FILE.",
        f"Evidence, state and signing key stay in the claim {cluster.claim}.",
    ]
    if needs.variables or needs.files:
        lines.append(f"The Secret {cluster.secret} must hold: {', '.join([*needs.variables, *needs.files])}.")
    return "".join(f"# {re.sub(r'[^ -~]', lambda match: ascii(match[0])[1:-1], line)}\n" for line in lines)
