"""The same deployment in containers, by a Docker daemon of the test's own, with an image of this machine's server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from credscale.testing import require, wait_for
from tests.scenarios.redis.conftest import server_program
from tests.scenarios.redis.deployment import PASSWORD, Deployment
from tests.scenarios.redis.test_deploy import changes, healthy, told

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(200)]
IMAGE, PROJECT = "credscale-redis:scenario", "credscale-scenario"


def docker(*words: str, **options: Any) -> str:
    """Run the Docker client and return what it says."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60, check=True, **options).stdout


def image_file(folder: Path) -> Path:
    """Return an image's file tree with the server, its client, and what the health check needs."""
    cli = Path(server_program()).with_name("redis-cli")
    programs = [server_program(), str(cli), "/bin/sh", "/bin/grep"]
    files = set(programs)
    for program in programs:
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=20).stdout
        files |= set(re.findall(r"(/\S+) \(0x", linked))
    folders = {str(parent) for file in files for parent in PurePosixPath(file).parents if str(parent) != "/"}
    path = folder / "image.tar"
    with tarfile.open(path, "w", dereference=True) as archive:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for file in sorted(files):
            archive.add(file)
    return path


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a Docker daemon without any network of its own, reached through a socket of this user alone."""
    program = require("docker")
    require("docker-compose")
    if os.geteuid():
        pytest.skip("needs root: dockerd runs containers")
    folder = Path(tempfile.mkdtemp(prefix="credscale-docker-"))
    command = [
        program, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid",
        "--host", f"unix://{folder}/sock", "--bridge", "none", "--iptables=false", "--ip6tables=false",
        "--storage-driver", "vfs",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/sock")
        wait_for(lambda: "API listen" in (folder / "log").read_text(), 30)
        docker("import", "--change", "ENV PATH=/usr/bin:/bin", str(image_file(folder)), IMAGE)
        yield
        left = docker("ps", "--all", "--quiet").split()
        if left:
            docker("rm", "--force", *left)
    finally:
        process.terminate()
        process.wait(30)
        # the daemon leaves the machine's network namespace mounted there
        subprocess.run(["umount", f"{folder}/exec/netns/default"], capture_output=True, timeout=20, check=False)
        shutil.rmtree(folder)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Return six nodes that are to run in containers of the machine's network."""
    made = Deployment(tmp_path, monkeypatch)
    made.deploy.pop("binaries")
    made.deploy.update(start="compose", compose={"image": IMAGE, "project": PROJECT})
    return made


@pytest.mark.usefixtures("daemon")
def test_six_containers_become_a_cluster(site: Deployment) -> None:
    first = site.run()
    assert f"write {site.directory}/compose.yaml on this machine" in changes(first)
    assert healthy(site)
    ids = docker("ps", "--quiet").split()
    assert len(ids) == 6
    seen = docker("inspect", *ids)
    assert PASSWORD not in seen + told(first)
    assert '"User": "999:999"' in seen
    wait_for(lambda: docker("ps", "--filter", "health=healthy", "--quiet").split() == ids, 30, every=0.5)
    assert site.run().changes == 0

    # a container that was lost comes back alone, with its data
    service = f"redis-{site.addresses[0].rpartition(':')[2]}"
    (lost,) = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.service={service}").split()
    docker("rm", "--force", lost)
    site.deploy["maxmemory"] = "96mb"
    after = site.run()
    assert f"start node {site.addresses[0]}" in changes(after)
    assert not [text for text in changes(after) if text.startswith("start node") and site.addresses[0] not in text]
    wait_for(lambda: healthy(site), 20)
    assert set(docker("ps", "--quiet").split()) >= set(ids) - {lost}
    sizes = {site.client(address).config_get("maxmemory")["maxmemory"] for address in site.addresses[1:]}
    assert sizes == {str(64 << 20)}, "what runs was not restarted"
    assert site.client(site.addresses[0]).config_get("maxmemory")["maxmemory"] == str(96 << 20)
