"""The manifest against the API's own schema, and what a pod would see of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from credscale.core.errors import EnvironmentInvalid, Refused
from credscale.frontends.schedule import kubernetes
from credscale.frontends.schedule.kubernetes import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.frontends.schedule.asked import Asked

RECORDED = json.loads((Path(__file__).parents[2] / "cases/schedule/kubernetes_schema.json").read_text())
CLUSTER = Cluster("registry/credscale:1", "evidence", "credscale-prod", "ops", "/credscale")
PROD = """\
name: prod  # with "quotes", {braces} and ü
policy:
  confirm: type-name
  require_ticket: true
  maintenance_window: {timezone: Europe/Berlin, start: "02:00", stop: "06:00"}
mongo: {uri: env:CREDSCALE_PROD_MONGO_URI}
redis: {nodes: ["redis1:7000"], user: ops, password: file:/run/secrets/redis, tls: {ca: /etc/ssl/redis-ca.pem}}
hosts:
  redis1: {address: redis1.example.net, key: ~/.ssh/ops_ed25519}
"""
PLAIN = """\
name: plain
policy: {confirm: none, maintenance_window: {timezone: Europe/Berlin, start: "02:00", stop: "06:00"}}
"""
HOSTILE = "\"'\\\n\r\n{{ x }}$(HOME)$HOME$$(A)`id`--- # : &*!|>%@\t\x00\x85\u2028\ufeffü😀 \n"


def documents(text: str) -> list[Any]:
    """Return what a parser makes of a manifest, after the API's schema has let it through."""
    found = list(yaml.safe_load_all(text))
    for document in found:
        schema = RECORDED["kinds"][document["kind"]] | {"definitions": RECORDED["definitions"]}
        errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]
        assert not errors, errors
    return found


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of a Job's or CronJob's pod."""
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


def expanded(text: str) -> str:
    """Return what a container gets of an argument, when it has the variables HOME and A.

    As kubernetes/third_party/forked/golang/expansion: $$ is a dollar, $(NAME) a variable where there is one.
    """
    variables = {"HOME": "expanded", "A": "expanded"}

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def test_a_job_passes_the_schema_and_keeps_its_promises(ask: Callable[..., Asked]) -> None:
    config, job = documents(kubernetes.manifest(ask(PROD, ticket="CHG-1"), CLUSTER))
    assert config["data"] == {"prod.yaml": PROD}
    assert job["kind"] == "Job"
    assert job["metadata"]["namespace"] == config["metadata"]["namespace"] == "ops"
    assert job["spec"]["backoffLimit"] == 0
    assert "activeDeadlineSeconds" not in job["spec"]
    pod = pod_of(job)
    container = pod["containers"][0]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 300)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["command"] == [
        "invoke", "shard-migrate", "--env=/etc/credscale/prod.yaml", "--yes", "--in-process", "--ticket=CHG-1",
    ]  # fmt: skip
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounted["/credscale/.credscale"] == mounted["/var/lib/credscale"] == "kept"
    assert {"name": "kept", "persistentVolumeClaim": {"claimName": "evidence"}} in pod["volumes"]


def test_the_schema_knows_what_the_api_does_not(ask: Callable[..., Asked]) -> None:
    text = kubernetes.manifest(ask(PROD, ticket="CHG-1"), CLUSTER)
    for right, wrong in (("workingDir:", "workdir:"), ("backoffLimit: 0", "backoffLimit: none")):
        with pytest.raises(AssertionError):
            documents(text.replace(right, wrong))


def test_secrets_come_from_the_secret_and_never_stand_in_the_file(
    ask: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDSCALE_PROD_MONGO_URI", "mongodb://u:hunter2hunter2@h:1")
    text = kubernetes.manifest(ask(PROD, ticket="CHG-1"), CLUSTER)
    assert "hunter2" not in text
    pod = pod_of(documents(text)[1])
    container = pod["containers"][0]
    assert {
        "name": "CREDSCALE_PROD_MONGO_URI",
        "valueFrom": {"secretKeyRef": {"name": "credscale-prod", "key": "CREDSCALE_PROD_MONGO_URI"}},
    } in container["env"]
    mounts = {mount["mountPath"]: mount["subPath"] for mount in container["volumeMounts"] if mount["name"] == "secrets"}
    assert mounts == {
        "/run/secrets/redis": "redis",
        "/etc/ssl/redis-ca.pem": "redis-ca.pem",
        "/home/credscale/.ssh/ops_ed25519": "ops_ed25519",
        "/home/credscale/.ssh/known_hosts": "known_hosts",
    }
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "secrets")
    assert volume["secret"]["defaultMode"] == 0o440, "for the pod's group alone"
    keys = "CREDSCALE_PROD_MONGO_URI, known_hosts, ops_ed25519, redis-ca.pem, redis"
    assert set(text.partition("must hold: ")[2].partition(".\n")[0].split(", ")) == set(keys.split(", "))


def test_a_cron_job_runs_in_the_time_zone_of_the_window_and_never_twice_at_once(ask: Callable[..., Asked]) -> None:
    asked = ask(PLAIN, runbook="cluster-status", cron="0 2 * * 6")
    workload = documents(kubernetes.manifest(asked, Cluster("i", "c", "", "", "/credscale")))[1]
    spec = workload["spec"]
    assert (workload["kind"], spec["schedule"], spec["timeZone"]) == ("CronJob", "0 2 * * 6", "Europe/Berlin")
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == ("Forbid", 600)
    assert pod_of(workload)["restartPolicy"] == "Never"
    assert len(workload["metadata"]["name"]) <= 52


def test_the_examples_of_the_environments(ask: Callable[..., Asked]) -> None:
    for path in sorted(Path("runbooks/environments").glob("*.example.yaml")):
        documents(kubernetes.manifest(ask(path.read_text(), ticket="CHG-1"), CLUSTER))


def test_hostile_values_arrive_as_they_are(ask: Callable[..., Asked]) -> None:
    asked = ask(
        PROD + f"# {HOSTILE.splitlines()[0]}\n", ticket=HOSTILE, settings=[f"main_query={HOSTILE}"], command=HOSTILE
    )
    command = pod_of(documents(kubernetes.manifest(asked, CLUSTER))[1])["containers"][0]["command"]
    assert [expanded(word) for word in command[-2:]] == [f"--ticket={HOSTILE}", f"--main-query={HOSTILE}"]


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("$()AHOME\x85\u2028\n")))
def test_kubernetes_expands_nothing(value: str) -> None:
    assert expanded(kubernetes.unexpanded(value)) == value
    assert yaml.safe_load(kubernetes.dump([{"command": [value]}])) == {"command": [value]}


@pytest.mark.parametrize("text", ["y", "N", "on", "1e3", "0x1F", "0o17", "1_000", "12", "1.5", "null", "~", ".inf"])
def test_what_another_parser_of_yaml_takes_for_something_else_stands_in_quotes(text: str) -> None:
    assert re.fullmatch(rf"- (['\"]){re.escape(text)}\1\n", kubernetes.dump([[text]]))  # type: ignore[list-item]


def test_whatever_differs_gets_another_name(ask: Callable[..., Asked]) -> None:
    def name(asked: Asked, cluster: Cluster = CLUSTER) -> str:
        return str(documents(kubernetes.manifest(asked, cluster))[1]["metadata"]["name"])

    first = name(ask(PROD, ticket="CHG-1"))
    assert first == name(ask(PROD, ticket="CHG-1"))
    others = {name(ask(PROD, ticket="CHG-2")), name(ask(PROD + "# new\n", ticket="CHG-1"))}
    others.add(name(ask(PROD, ticket="CHG-1"), Cluster("registry/credscale:2", "evidence", "s", "", "/x")))
    assert len(others | {first}) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nredis: {nodes: ['h:1'], password: 'keyring:redis/ops'}\n", "a pod has no keyring"),
        ("name: a\nredis: {nodes: ['h:1'], password: 'file:secrets/redis'}\n", "absolute path"),
        ("name: a\nredis: {nodes: ['h:1'], password: 'file:/a/../b'}\n", "absolute path"),
        ("name: a\nredis: {nodes: ['h:1'], password: 'env:1 x'}\n", "does not name a variable"),
        ("name: a\nredis: {nodes: ['h:1'], password: 'file:/a/x', tls: {ca: /b/x}}\n", "two secrets.*'x'"),
        ("name: a\nlab: {}\nmongo: {uri: 'mongodb://h:1'}\n", "the section lab"),
    ],
)
def test_what_a_pod_has_not_got(ask: Callable[..., Asked], text: str, words: str) -> None:
    with pytest.raises(EnvironmentInvalid, match=words):
        kubernetes.manifest(ask(text), CLUSTER)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Cluster("", "c", "s", "", "/p"), "--image"),
        (Cluster("i", "", "s", "", "/p"), "--claim.*evidence"),
        (Cluster("i", "c", "No_Name", "", "/p"), "--secret 'No_Name'"),
        (Cluster("i", "c", "s", "a.b", "/p"), "--namespace 'a.b'"),
        (Cluster("i", "c", "s", "", "p"), "--project"),
        (Cluster("i", "c", "", "", "/p"), "--secret NAME.*CREDSCALE_PROD_MONGO_URI"),
    ],
)
def test_names(ask: Callable[..., Asked], cluster: Cluster, words: str) -> None:
    with pytest.raises(EnvironmentInvalid, match=words):
        kubernetes.manifest(ask(PROD, ticket="CHG-1"), cluster)


def test_the_ticket_that_the_policy_wants(ask: Callable[..., Asked]) -> None:
    with pytest.raises(Refused, match="requires a change ticket"):
        kubernetes.manifest(ask(PROD), CLUSTER)
