"""The host's side of ``--on``: a script of the standard library, because it comes before anything is installed there.

It is sent as it stands, called as ``agent.py VERB FOLDER ARGUMENT...``, and answers with a line that its shell cannot
have printed and then with JSON, a line at a time; what went wrong stands on standard error, with exit code 1, or
``GONE`` for a run that is not there. ``FOLDER`` is the host's ``folder`` in the inventory:

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
import select
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
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT_SECONDS = 2.0
POLL_SECONDS = 0.1
START_SECONDS = 60.0  # in which a run that was sent must have a process
KERNEL_SECONDS = 10.0  # in which a notebook kernel ends after the process that started it
SENT_SECONDS = 60.0  # of silence, after which whoever sends something is gone
LOCK_SECONDS = 900.0
FULL_BYTES = 65_536
PIECE = 1 << 20
GONE = 44
MARK = "-- credscale agent --"
READY = "ready"


def say(**message: object) -> None:
    """Print one line of the answer; what is at work goes on when the terminal is lost, whose next try finds it done."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except ConnectionError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


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
        return bool(os.environ.get(name))
    path = os.path.expanduser(name)  # noqa: PTH111 - Path raises where there is no such home
    return kind == "file" and os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def receive(base: Path, kind: str, name: str) -> None:
    """Take a tar archive: ``packages`` NAME, pinned requirements and perhaps wheels, or ``versions`` NAME."""
    folder = base / kind
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob("*.part"):
        if _began(int(left.suffixes[-2][1:])) is None:
            shutil.rmtree(left, ignore_errors=True)
    # Without the lock: nobody shall wait for a terminal whose cable was cut.
    part = folder / f"{name}.{os.getpid()}.part"
    with _emptied(part):
        _unpack(part)
        with _locked(folder):
            shutil.rmtree(folder / f"{name}.sent", ignore_errors=True)
            part.rename(folder / f"{name}.sent")
    say(done="received")


def install(base: Path, kind: str, name: str) -> None:
    """Install what was received, unless another terminal has done so."""
    final, sent = base / kind / name, base / kind / f"{name}.sent"
    with _locked(base / kind):
        if (final / READY).exists():
            shutil.rmtree(sent, ignore_errors=True)  # or that one has taken it
        else:
            with _emptied(final):
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
def _emptied(folder: Path) -> Iterator[None]:
    """Remove a folder before the block, and again when the block fails."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def launch(base: Path, run: str) -> None:
    """Start a run that was sent as one JSON object, detached from this connection; once, however often it is asked."""
    order = json.loads(sys.stdin.buffer.read())
    secrets = order.pop("secrets")
    with _locked(base / "runs"):
        folder = base / "runs" / run
        if (folder / "process.json").exists():
            say(done="it was started before")
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / "order.json", order)
        version, packages = base / "versions" / order["version"], base / "packages" / order["packages"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(version),
            "CREDSCALE_NOTEBOOKS": str(version / "notebooks"),
            "CREDSCALE_REQUESTED_BY": order["requested_by"],
            "CREDSCALE_COMMIT": order["commit"],
        }
        for name in ("CREDSCALE_ARTIFACTS", "PYTHONHOME"):  # artifacts are looked for in the working folder
            environment.pop(name, None)
        try:
            with (folder / "worker.log").open("ab") as log:
                worker = subprocess.Popen(
                    [packages / "venv" / "bin" / "python", "-P", "-m", "credscale.frontends.remote.worker", folder],
                    cwd=base / "work", env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        except OSError:
            (folder / "order.json").unlink()  # without it there is no such run
            raise
        _write(folder / "process.json", {"pid": worker.pid, "began": _began(worker.pid)})
        if worker.stdin is not None:
            with worker.stdin as given:
                given.write(json.dumps(secrets).encode())
    say(done="started")


def _write(path: Path, content: object) -> None:
    """Write JSON so that it is there as a whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        file.write(json.dumps(content))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def follow(base: Path, run: str, offset: str) -> None:
    """Print the run's stream from an offset on, as ``[next offset, record]``, until it ends, is dead, or is gone."""
    position, beat, dead_since = int(offset), 0.0, 0.0
    try:
        folder = _folder(base, run)
    except NoRunError as error:
        _show(position, {"gone": str(error)})
        return
    while True:
        alive = _alive(folder)
        lines, position = _lines(folder / "stream.jsonl", position)
        for end, record in lines:
            _show(end, record)
            if "ended" in record:
                return
        if alive or lines:
            dead_since = 0.0
        else:
            dead_since = dead_since or time.monotonic()
            if not _kernel_alive(folder) or time.monotonic() - dead_since > KERNEL_SECONDS:
                _show(position, {"died": _last_words(folder)})
                return
        if not lines and time.monotonic() - beat >= BEAT_SECONDS:
            beat = time.monotonic()
            _show(position, {})
        time.sleep(0 if lines else POLL_SECONDS)


def _show(position: int, record: object) -> None:
    sys.stdout.write(json.dumps([position, record]) + "\n")  # ASCII, which every locale can print
    sys.stdout.flush()


def _lines(path: Path, position: int) -> tuple[list[tuple[int, dict[str, object]]], int]:
    """Return the next records behind an offset, each with where the one after it begins, and where to go on.

    What is no record, because a disk was full or power was cut, is left out.
    """
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        piece = file.read(PIECE)
        while b"\n" not in piece and (more := file.read(PIECE)):
            piece += more
    whole, end, _ = piece.rpartition(b"\n")
    found = []
    for line in whole.split(b"\n") if end else ():
        position += len(line) + 1
        record = _parsed(line)
        if record is not None:
            found.append((position, record))
    return found, position


def _parsed(text: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def answer(base: Path, run: str) -> None:
    """Answer the question that a run has put, with the text on standard input; the first answer counts."""
    text = sys.stdin.buffer.read()
    draft = _folder(base, run) / f"answer.{os.getpid()}"
    draft.write_bytes(text)
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
    wanted = ("environment", "runbook", "artifacts", "requested_by", "flags")
    found = []
    for path in sorted((base / "runs").glob("*/order.json"), reverse=True):
        order = _parsed(path.read_bytes()) or {}
        if set(wanted) <= set(order):  # not one of another version of this script
            found.append(
                {"run": path.parent.name, "status": _status(path.parent), **{key: order[key] for key in wanted}}
            )
    say(runs=found)


def _status(folder: Path) -> str:
    said = folder / "stream.jsonl"
    last: list[tuple[int, dict[str, object]]] = []
    if said.exists():
        last, _ = _lines(said, max(0, said.stat().st_size - PIECE // 16))
    ended = last[-1][1].get("ended") if last else None
    if isinstance(ended, dict):
        return str(ended.get("status"))
    return "running" if _alive(folder) else "died"


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


class NoRunError(Exception):
    """A run is not here: it never was, or somebody removed it."""


def _folder(base: Path, run: str) -> Path:
    folder = base / "runs" / run
    if not (folder / "order.json").exists():
        raise NoRunError(f"there is no run {run} in {base}")
    return folder


def _evidence_folder(base: Path, run: str) -> Path:
    order = json.loads((_folder(base, run) / "order.json").read_text())
    return base / "work" / str(order["artifacts"])


def _alive(folder: Path) -> bool:
    """Tell whether the run's process is there: by its pid and when it began, which a reboot or another one changes."""
    path = folder / "process.json"
    if not path.exists():
        return time.time() - (folder / "order.json").stat().st_mtime < START_SECONDS
    process = json.loads(path.read_text())
    return process["began"] is not None and process["began"] == _began(process["pid"])


def _kernel_alive(folder: Path) -> bool:
    """Tell whether the notebook kernel of a run still writes its journal; it ends soon after the run's process."""
    order = _parsed((folder / "order.json").read_bytes()) or {}
    journal = folder.parent.parent / "work" / str(order.get("artifacts")) / "journal.jsonl"
    if not journal.exists():
        return False
    with journal.open("rb") as file:
        first = _parsed(file.readline()) or {}
    return isinstance(first.get("pid"), int) and _began(int(str(first["pid"]))) is not None


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
    words = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
    full = shutil.disk_usage(folder).free < FULL_BYTES
    return words or (f"No space left in {folder}, so it could not even say so" if full else "")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; whoever comes meanwhile waits and says so."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_SECONDS
    with (folder / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RuntimeError(f"somebody else has held {folder} for {LOCK_SECONDS:.0f} s") from None
                say(doing="waiting for another terminal that prepares this host")
                time.sleep(BEAT_SECONDS)
        yield


class _Sent:
    """Standard input that is given up when nothing comes."""

    def read(self, count: int) -> bytes:
        if not select.select([sys.stdin], [], [], SENT_SECONDS)[0]:
            raise RuntimeError(f"nothing was sent for {SENT_SECONDS:.0f} s")
        return os.read(sys.stdin.fileno(), count)


def _unpack(folder: Path) -> None:
    """Write the files of the tar archive on standard input into a new folder."""
    folder.mkdir(mode=0o700, parents=True)
    with tarfile.open(fileobj=cast("BinaryIO", _Sent()), mode="r|") as archive:
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


def _refuse_strangers(base: Path) -> None:
    """Refuse folders in which another user could have put what would then run as this one."""
    for path in (base, *(base / name for name in ("packages", "versions", "runs", "work"))):
        if not path.exists():
            continue
        seen = path.stat()
        if seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            raise RuntimeError(
                f"{path} belongs to another user or can be written by others, who could put there what would run as "
                "this one. Nothing was changed. Give it to the login's user alone (chmod go-w), or name another folder"
            )


def main(words: list[str]) -> int:
    """Carry out one verb; what went wrong is said on standard error."""
    verb, base, *arguments = words
    sys.stdout.write(MARK + "\n")
    sys.stdout.flush()
    try:
        _refuse_strangers(Path(base))
        VERBS[verb](Path(base), *arguments)
    except NoRunError as error:
        sys.stderr.write(f"{error}\n")
        return GONE
    except (OSError, LookupError, ValueError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
