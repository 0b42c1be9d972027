"""What a host needs for a run: this version of credscale with its notebooks, and the packages below it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import deque
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.frontends.catalogue import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CACHE = Path(".credscale/remote")
BUILD_SECONDS = 300.0
DOWNLOAD_SECONDS = 1800.0
NOT_THERE = frozenset({"test", "jupyter"})  # extras that no run needs
_METADATA = ("pyproject.toml", "README.md", "LICENSE")


def version() -> str:
    """Return a name for the sources as they are now.

    Raises:
        EnvironmentInvalid: credscale does not run from a checkout, so there is nothing to build a wheel of.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise EnvironmentInvalid(
            f"--on sends the checkout that invoke runs in, and {ROOT} is none. Nothing was changed"
        )
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for folder, pattern in (("credscale", "*.py"), ("runbooks", "*.py"), ("runbooks", "*.yaml")):
        yield from sorted((ROOT / folder).rglob(pattern))
    yield from _notebooks()
    yield ROOT / "pyproject.toml"


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def pack_version(name: str) -> Path:
    """Return a tar archive of the wheel and the notebooks, built once per version.

    Args:
        name: as ``version`` returns it.

    Raises:
        PreconditionFailed: the wheel cannot be built; carries what pip said.
    """
    archive = CACHE / "versions" / f"{name}.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="credscale-") as scratch:
        # A copy, because setuptools builds in place and takes along what an earlier build left there.
        source, wheels = Path(scratch) / "source", Path(scratch) / "wheels"
        for folder in ("credscale", "runbooks"):
            shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for each in _METADATA:
            shutil.copy(ROOT / each, source / each)
        _pip("build the wheel", ["wheel", "--no-deps", "--wheel-dir", str(wheels), str(source)], BUILD_SECONDS)
        files = {f"notebooks/{path.name}": path for path in _notebooks()}
        _write_tar(archive, files | {path.name: path for path in wheels.glob("*.whl")})
    return archive


def requirements(python: str, machine: str) -> tuple[str, ...]:
    """Return the packages below credscale as they are installed here, pinned, for the Python of a host.

    The extras that are installed here come along.

    Args:
        python: the host's version, such as ``3.12.4``.
        machine: its processor, such as ``x86_64``.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    marks = dict(default_environment()) | {
        "python_version": ".".join(python.split(".")[:2]), "python_full_version": python,
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine,
    }  # fmt: skip
    wanted = [*project["dependencies"]]
    for extra, texts in project["optional-dependencies"].items():
        if extra not in NOT_THERE and all(_installed(Requirement(text).name) for text in texts):
            wanted += texts
    return tuple(sorted(_closure(wanted, marks)))


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _closure(wanted: list[str], marks: Mapping[str, Any]) -> set[str]:
    """Return everything that is needed, each pinned to the version that is installed here, if it is."""
    pinned: dict[str, str] = {}
    queue = deque((Requirement(text), "") for text in wanted)
    seen: set[tuple[str, str]] = set()
    while queue:
        needed, extra = queue.popleft()
        if needed.marker is not None and not needed.marker.evaluate(dict(marks) | {"extra": extra}):
            continue
        name = canonicalize_name(needed.name)
        # without its marker, which pip would judge by the Python here when it downloads for another one
        exactly = f"=={distribution(name).version}" if _installed(name) else str(needed.specifier)
        pinned.setdefault(name, name + exactly)
        for each in {"", *needed.extras}:
            if (name, each) not in seen and _installed(name):
                seen.add((name, each))
                queue += [(Requirement(text), each) for text in distribution(name).requires or ()]
    return set(pinned.values())


def name_of(pinned: tuple[str, ...], look: Mapping[str, Any]) -> str:
    """Return a name for packages on a host: the same ones for another Python are others."""
    text = "\n".join([*pinned, look["implementation"], *look["python"].split(".")[:2], look["platform"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pack_requirements(name: str, pinned: tuple[str, ...], look: Mapping[str, Any], *, wheels: bool) -> Path:
    """Return a tar archive of the pinned requirements.

    Args:
        name: as ``name_of`` returns it.
        pinned: the packages.
        look: what the host says of its Python.
        wheels: whether to download the packages here and put them in, for a host without a registry.

    Raises:
        PreconditionFailed: they cannot be downloaded; carries what pip said.
    """
    folder = CACHE / "packages" / name
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ("wheels.tar" if wheels else "requirements.tar")
    if archive.exists():
        return archive
    (folder / "requirements.txt").write_text("\n".join(pinned) + "\n", encoding="utf-8")
    files = {"requirements.txt": folder / "requirements.txt"}
    with tempfile.TemporaryDirectory(prefix="credscale-") as scratch:
        if wheels:
            words = ["download", "--only-binary=:all:", "--dest", scratch, *_fitting(look)]
            known = [each for each in pinned if "==" in each]
            _pip("download the packages", [*words, "--no-deps", *known], DOWNLOAD_SECONDS)
            # What only the host's Python needs is not installed here, so pip has to find out what that needs itself.
            if rest := [each for each in pinned if each not in known]:
                _pip("download the packages", [*words, *rest], DOWNLOAD_SECONDS)
            files |= {f"wheels/{path.name}": path for path in Path(scratch).iterdir()}
        _write_tar(archive, files)
    return archive


def _fitting(look: Mapping[str, Any]) -> list[str]:
    """Return pip's options for wheels that fit a host's Python, processor and C library (PEP 600, PEP 656)."""
    major, minor = look["python"].split(".")[:2]
    machine = str(look["platform"]).removeprefix("linux-")
    libc, release = look["libc"]
    if libc == "glibc":
        newest = int(release.split(".")[1])
        platforms = [f"manylinux_2_{each}_{machine}" for each in range(newest, 4, -1)]
        platforms += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    else:
        platforms = [f"musllinux_1_{each}_{machine}" for each in (2, 1)]
    words = ["--python-version", f"{major}.{minor}", "--implementation", "cp"]
    words += [word for abi in (f"cp{major}{minor}", "abi3", "none") for word in ("--abi", abi)]
    return words + [word for platform in (*platforms, f"linux_{machine}") for word in ("--platform", platform)]


def _pip(what: str, words: list[str], timeout: float) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise PreconditionFailed(f"pip did not {what} within {timeout:.0f} s. Nothing was changed") from None
    if done.returncode:
        raise PreconditionFailed(f"pip could not {what}: {done.stderr.strip()[-1500:]}. Nothing was changed")


def _write_tar(path: Path, files: Mapping[str, Path]) -> None:
    draft = path.with_suffix(".draft")
    with tarfile.open(draft, "w") as archive:
        for name, file in sorted(files.items()):
            archive.add(file, arcname=name)
    draft.replace(path)
