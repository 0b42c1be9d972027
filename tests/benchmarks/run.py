"""Print credscale's figures as ratios against what a user would do instead, measured in one run.

    python tests/benchmarks/run.py [--only list,first,notebook,preflight,backup,digest,memory]

Every figure is the median of the runs named beside it. Nothing here asserts a time; read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
INVOKE = [sys.executable, "-m", "invoke"]
BARE = "from invoke import task\n\n@task\ndef one(c):\n    pass\n"
ENVIRONMENT = """\
name: bench
policy: {{confirm: none}}
lab: {{directory: {folder}/lab, documents: {documents}}}
mongo: {{uri: "file:{folder}/lab/mongo-uri"}}
runbooks:
  shard-migrate: {{chunk_size_mb: 2, window: "", backup_directory: "{folder}/backups"}}
"""
Row = tuple[str, str, str, str, str]


def seconds(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> float:
    """Return the wall time of a command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def median(count: int, measure: Callable[[], float]) -> float:
    """Return the median of several measurements, after one that is thrown away."""
    measure()
    return statistics.median(measure() for _ in range(count))


def listing() -> list[Row]:
    """invoke --list here against a tasks.py with one empty task."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tasks.py").write_text(BARE)
        ours, bare = [], []
        for _ in range(12):  # in turn, so that a machine that slows down slows both
            ours.append(seconds([*INVOKE, "--list"], ROOT))
            bare.append(seconds([*INVOKE, "--list"], Path(folder)))
    a, b = statistics.median(ours), statistics.median(bare)
    return [("invoke --list", f"{a:.2f} s", f"{b:.2f} s (one-task tasks.py)", f"{a / b:.2f}", "at most 1.3")]


def migrations(names: list[str]) -> list[Row]:
    """The README's first command with 20,000 documents, and a notebook run against --in-process."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        env_file = Path(folder) / "bench.yaml"
        env_file.write_text(ENVIRONMENT.format(folder=folder, documents=20_000))
        run = [*INVOKE, "shard-migrate", "--env", str(env_file)]
        env = os.environ | {"CREDSCALE_ARTIFACTS": f"{folder}/artifacts"}
        try:
            first = seconds(run, ROOT, env)
            if "first" in names:
                rows.append(("first command, 20,000 documents", f"{first:.1f} s", "-", "-", "under 60 s"))
            if "preflight" in names:
                look = [*INVOKE, "mongo.preflight", "--env", str(env_file)]
                whole = statistics.median(seconds(look, ROOT, env) for _ in range(3))
                rows.append(("pre-flight, all checks, with invoke's start", f"{whole:.1f} s", "-", "-", "-"))
            if "notebook" in names:
                notebook = statistics.median(seconds(run, ROOT, env) for _ in range(3))
                process = statistics.median(seconds([*run, "--in-process"], ROOT, env) for _ in range(3))
                figures = (f"{notebook:.1f} s", f"{process:.1f} s (--in-process)", f"{notebook / process:.2f}")
                rows.append(("notebook, run again", *figures, f"5 s more; is {notebook - process:.1f} s more"))
        finally:
            subprocess.run(
                [*INVOKE, "lab.down", "--env", str(env_file), "--wipe"], cwd=ROOT, check=False, capture_output=True
            )
    return rows


def backup_and_memory(names: list[str]) -> list[Row]:
    """Native backup against mongodump, and peak memory while the data grow tenfold."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, str(Path(__file__).with_name("worker.py")), folder]
        server = subprocess.Popen([*worker, "serve"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            results = {}
            for count in (20_000, 200_000):
                subprocess.run([*worker, "fill", port, str(count)], check=True)
                for what in ("dump", "digest"):
                    done = subprocess.run([*worker, what, port, str(count)], check=True, capture_output=True, text=True)
                    results[what, count] = json.loads(done.stdout)
            for what in ("dump", "digest") if "memory" in names else ():
                small, large = results[what, 20_000]["peak_mb"], results[what, 200_000]["peak_mb"]
                rows.append(
                    (
                        f"peak memory of {what}, 10x the data",
                        f"{large} MB",
                        f"{small} MB (20,000)",
                        f"{large / small:.2f}",
                        "flat",
                    )
                )
            if "backup" in names:
                rows.append(_against_mongodump(folder, port, results["dump", 200_000]))
            if "digest" in names:
                done = subprocess.run([*worker, "plain", port, "200000"], check=True, capture_output=True, text=True)
                rows += _digest_rows(port, results["digest", 200_000], json.loads(done.stdout))
        finally:
            server.terminate()
            server.wait(30)
    return rows


def _against_mongodump(folder: str, port: str, native: dict[str, float]) -> Row:
    speed = f"{native['seconds']:.1f} s ({native['mb'] / native['seconds']:.0f} MB/s)"
    if shutil.which("mongodump") is None:
        return ("native backup, 200,000 documents", speed, "mongodump is not on PATH", "not measured", "at most 1.0")
    uri = ["--uri", f"mongodb://127.0.0.1:{port}/", "--db", "bench", "--collection", "docs200000"]
    other = seconds(["mongodump", *uri, "--out", f"{folder}/mongodump"], ROOT)
    return (
        "native backup, 200,000 documents",
        speed,
        f"{other:.1f} s (mongodump)",
        f"{native['seconds'] / other:.2f}",
        "at most 1.0",
    )


def _digest_rows(port: str, ours: dict[str, float], plain: dict[str, float]) -> list[Row]:
    """The digest against a loop over find() that hashes, and against mongodump piped into sha256sum."""

    def speed(run: dict[str, float]) -> str:
        each, megabytes = 200_000 / run["seconds"], run["mb"] / run["seconds"]
        return f"{run['seconds']:.1f} s, {each:,.0f} documents/s, {megabytes:.0f} MB/s"

    name, ratio = "digest, 200,000 documents", ours["seconds"] / plain["seconds"]
    rows = [(name, speed(ours), f"{speed(plain)} (find() and sha256)", f"{ratio:.2f}", "at most 1.0")]
    if shutil.which("mongodump") is None:
        return [*rows, (name, speed(ours), "mongodump is not on PATH", "not measured", "at most 1.0")]
    uri = f"--uri mongodb://127.0.0.1:{port}/ --db bench --collection docs200000 --archive"
    other = seconds(["bash", "-o", "pipefail", "-c", f"mongodump {uri} | sha256sum"], ROOT)
    other_speed = f"{other:.1f} s (mongodump | sha256sum)"
    return [*rows, (name, speed(ours), other_speed, f"{ours['seconds'] / other:.2f}", "at most 1.0")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="list,first,notebook,preflight,backup,digest,memory")
    names = parser.parse_args().only.split(",")
    rows: list[Row] = []
    if "list" in names:
        rows += listing()
    if {"first", "notebook", "preflight"} & set(names):
        rows += migrations(names)
    if {"backup", "digest", "memory"} & set(names):
        rows += backup_and_memory(names)
    table = Table("what", "credscale", "against", "ratio", "aim")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
