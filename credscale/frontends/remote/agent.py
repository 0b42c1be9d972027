"""The host's side of ``--on``: a script of the standard library, because it comes before anything is installed there.

It is sent as it stands, called as ``agent.py VERB FOLDER ARGUMENT...``, and answers with JSON, a line at a time; what
went wrong stands on standard error, with exit code 1. ``FOLDER`` is the host's ``folder`` in the inventory:

    agent-HASH.py    this script
    packages/HASH/   the Python packages that credscale needs, in a virtual environment
    versions/HASH/   one version of credscale, runbooks and notebooks, on top of one of those
    runs/RUN/        a run: what was asked for, its stream, and what was answered from a terminal
    work/            the working folder of all runs: their artifacts, locks and labs
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT_SECONDS = 2.0
POLL_SECONDS = 0.1
START_SECONDS = 60.0
READY = "ready"


def say(**message: object) -> None:
    """Print one line of the answer."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def look(base: Path, packages: str, version: str, *references: str) -> None:
    """Tell what is here: Python, room, what is installed, which secrets this machine has itself."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    (base / "work").mkdir(mode=0o700, exist_ok=True)
    os.chdir(base / "work")
    say(
        python=platform.python_version(),
        implementation=sys.implementation.name,
        platform=sysconfig.get_platform(),
        libc=list(platform.libc_ver()),
        free=shutil.disk_usage(base).free,
        packages=(base / "packages" / packages / READY).exists(),
        version=(base / "versions" / version / READY).exists(),
        has=[reference for reference in references if _has(reference)],
    )


def _has(reference: str) -> bool:
    kind, _, name = reference.partition(":")
    if kind == "env":
        return name in os.environ
    return kind == "file" and os.access(Path(name).expanduser(), os.R_OK)


def receive(base: Path, kind: str, name: str) -> None:
    """Take a tar archive: ``packages`` NAME, pinned requirements and perhaps wheels, or ``versions`` NAME."""
    sent = base / kind / f"{name}.sent"
    with _locked(base / kind), _removed_unless_done(sent):
        _unpack(sent)
    say(done="received")


def install(base: Path, kind: str, name: str) -> None:
    """Install what was received, unless another terminal has done so."""
    final, sent = base / kind / name, base / kind / f"{name}.sent"
    with _locked(base / kind):
        if (final / READY).exists():
            shutil.rmtree(sent)
        else:
            with _removed_unless_done(final):
                sent.rename(final)
                INSTALL[kind](final)
                (final / READY).touch()
    say(done="installed")


def _install_packages(folder: Path) -> None:
    """Make a virtual environment with the pinned requirements, from the wheels beside them or else a registry."""
    _run("making a virtual environment", [sys.executable, "-m", "venv", str(folder / "venv")])
    wheels = folder / "wheels"
    source = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else ["--retries", "0"]
    count = len((folder / "requirements.txt").read_text().splitlines())
    _run(
        f"installing {count} packages from {'the wheels that were sent' if wheels.is_dir() else 'its registry'}",
        [
            str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input",
            "--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--timeout", "5", *source,
            "-r", str(folder / "requirements.txt"),
        ],
    )  # fmt: skip
    shutil.rmtree(wheels, ignore_errors=True)


def _install_version(folder: Path) -> None:
    """Unpack the wheel of credscale; it has nothing but Python files."""
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)  # noqa: S202 - our own wheel; zipfile keeps its names inside the folder
        wheel.unlink()


INSTALL = {"packages": _install_packages, "versions": _install_version}


@contextmanager
def _removed_unless_done(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def launch(base: Path, run: str) -> None:
    """Start a run that was sent as one JSON object, detached from this connection; once, however often it is asked."""
    order = json.load(sys.stdin)
    secrets = order.pop("secrets")
    with _locked(base / "runs"):
        folder = base / "runs" / run
        if (folder / "process.json").exists():
            say(done="it was started before")
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "order.json").write_text(json.dumps(order))
        version, packages = base / "versions" / order["version"], base / "packages" / order["packages"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(version),
            "CREDSCALE_NOTEBOOKS": str(version / "notebooks"),
            "CREDSCALE_REQUESTED_BY": order["requested_by"],
        }
        environment.pop("CREDSCALE_ARTIFACTS", None)  # they are looked for in the working folder
        with (folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [str(packages / "venv" / "bin" / "python"), "-m", "credscale.frontends.remote.worker", str(folder)],
                cwd=base / "work", env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        (folder / "process.json").write_text(json.dumps({"pid": worker.pid, "began": _began(worker.pid)}))
        if worker.stdin is not None:
            with worker.stdin as given:
                given.write(json.dumps(secrets).encode())
    say(done="started")


def follow(base: Path, run: str, offset: str) -> None:
    """Print the run's stream from an offset in bytes on, as ``[next offset, record]``, until it ends or is dead."""
    folder, position, beat = _folder(base, run), int(offset), 0.0
    while True:
        alive = _alive(folder)
        lines, position = _lines(folder / "stream.jsonl", position)
        for end, line in lines:
            sys.stdout.write(f"[{end}, {line}]\n")
            if '"ended"' in line and "ended" in json.loads(line):
                sys.stdout.flush()
                return
        if not alive and not lines:
            sys.stdout.write(f"[{position}, {json.dumps({'died': _last_words(folder)})}]\n")
            return
        if lines or time.monotonic() - beat >= BEAT_SECONDS:
            beat = time.monotonic()
            sys.stdout.write("" if lines else f"[{position}, {{}}]\n")
            sys.stdout.flush()
        time.sleep(POLL_SECONDS)


def _lines(path: Path, position: int) -> tuple[list[tuple[int, str]], int]:
    """Return the whole lines behind an offset, each with where the next one begins, and where to go on."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    found = []
    for line in whole.split(b"\n") if whole else ():
        position += len(line) + 1
        found.append((position, line.decode()))
    return found, position


def answer(base: Path, run: str) -> None:
    """Answer the question that a run has put, with the text on standard input; the first answer counts."""
    text = sys.stdin.read()
    draft = _folder(base, run) / f"answer.{os.getpid()}"
    draft.write_text(text)
    try:
        os.link(draft, _folder(base, run) / "answer")
    except FileExistsError:
        say(done="it was answered before")
    else:
        say(done="answered")
    finally:
        draft.unlink()


def stop(base: Path, run: str) -> None:
    """Ask a run to stop before its next step."""
    (_folder(base, run) / "stop").touch()
    artifacts = _evidence_folder(base, run)
    if artifacts.is_dir() and not (artifacts / "manifest.json").exists():  # once sealed it is not to be added to
        (artifacts / "stop").touch()
    say(done="asked")


def interrupt(base: Path, run: str) -> None:
    """Interrupt a run as Ctrl-C does where it runs."""
    process = json.loads((_folder(base, run) / "process.json").read_text())
    if _alive(_folder(base, run)):
        os.kill(process["pid"], signal.SIGINT)
    say(done="asked")


def runs(base: Path) -> None:
    """List the runs that were sent here, newest first."""
    found = []
    for folder in sorted((base / "runs").glob("*/order.json"), reverse=True):
        order = json.loads(folder.read_text())
        said = folder.with_name("stream.jsonl")
        last = said.read_bytes().rstrip(b"\n").rpartition(b"\n")[2] if said.exists() else b""
        ended = json.loads(last).get("ended") if last.endswith(b"}") else None
        status = ended["status"] if ended else "running" if _alive(folder.parent) else "died"
        wanted = ("environment", "runbook", "artifacts", "requested_by", "flags")
        found.append({"run": folder.parent.name, "status": status} | {name: order[name] for name in wanted})
    say(runs=found)


def evidence(base: Path, run: str) -> None:
    """Tell size and sha256 of every file of the run's evidence."""
    files = {}
    for path in _files(_evidence_folder(base, run)):
        with path.open("rb") as file:
            files[path.name] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
    say(files=files)


def fetch(base: Path, run: str) -> None:
    """Print the run's evidence as a tar archive."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|gz") as archive:
        for path in _files(_evidence_folder(base, run)):
            archive.add(path, arcname=path.name, recursive=False)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []


def _folder(base: Path, run: str) -> Path:
    folder = base / "runs" / run
    if not (folder / "order.json").exists():
        raise LookupError(f"there is no run {run} in {base}")
    return folder


def _evidence_folder(base: Path, run: str) -> Path:
    order = json.loads((_folder(base, run) / "order.json").read_text())
    return base / "work" / str(order["artifacts"])


def _alive(folder: Path) -> bool:
    """Tell whether the run's process is there: by its pid and when it began, which a reboot or another one changes."""
    try:
        process = json.loads((folder / "process.json").read_text())
    except FileNotFoundError:
        return False
    return process["began"] is not None and process["began"] == _began(process["pid"])


def _began(pid: int) -> str | None:
    """Return when a process began, in ticks since this boot, with the boot's id; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _last_words(folder: Path) -> str:
    log = folder / "worker.log"
    return log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; whoever comes meanwhile waits and says so."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                say(doing="waiting for another terminal that prepares this host")
                time.sleep(BEAT_SECONDS)
        yield


def _unpack(folder: Path) -> None:
    """Write the files of the tar archive on standard input into a new folder."""
    folder.mkdir(mode=0o700, parents=True)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            name, data = Path(member.name), archive.extractfile(member)
            if data is None or name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{member.name} is no file of an archive that credscale makes")
            (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
            with data, (folder / name).open("wb") as file:
                shutil.copyfileobj(data, file)


def _run(what: str, words: list[str]) -> None:
    """Run a program to its end, with a sign of life every other second."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    say(doing=what)
    begin = time.monotonic()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean
    ) as process:
        while True:
            try:
                output, _ = process.communicate(timeout=BEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(doing=what, seconds=round(time.monotonic() - begin))
    if process.returncode:
        told = output.decode(errors="replace").strip()[-1500:]
        raise RuntimeError(f"{what} failed with exit code {process.returncode}: {told}")


VERBS = {
    verb.__name__: verb
    for verb in (look, receive, install, launch, follow, answer, stop, interrupt, runs, evidence, fetch)
}  # fmt: skip


def main(words: list[str]) -> int:
    """Carry out one verb; what went wrong is said on standard error."""
    verb, base, *arguments = words
    try:
        VERBS[verb](Path(base).expanduser(), *arguments)
    except (OSError, LookupError, ValueError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
