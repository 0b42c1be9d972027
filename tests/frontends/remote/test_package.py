"""What is sent to a host: named by its contents, pinned, fitting the Python there."""

from __future__ import annotations

import tarfile
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.frontends.remote import package

if TYPE_CHECKING:
    from pathlib import Path

LOOK = {"python": "3.11.2", "implementation": "cpython", "platform": "linux-x86_64", "libc": ["glibc", "2.36"]}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small checkout."""
    for name in ("credscale/a.py", "runbooks/b.py", "runbooks/environments/lab.yaml", "notebooks/b.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_version_is_named_by_what_it_holds(checkout: Path) -> None:
    first = package.version()
    assert package.version() == first
    seen = {first}
    for name in ("credscale/a.py", "runbooks/environments/lab.yaml", "notebooks/b.ipynb", "pyproject.toml"):
        (checkout / name).write_text("other")
        seen.add(package.version())
    (checkout / "credscale" / "a.py").rename(checkout / "credscale" / "c.py")
    seen.add(package.version())
    assert len(seen) == 6


def test_only_a_checkout_can_be_sent(checkout: Path) -> None:
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(EnvironmentInvalid, match="is none. Nothing was changed"):
        package.version()


def test_everything_below_credscale_is_pinned_as_it_is_here() -> None:
    found = package.requirements("3.12.1", "x86_64")
    pinned = dict(each.split("==") for each in found if "==" in each)
    for name in ("pymongo", "papermill", "paramiko", "traitlets"):
        assert pinned[name] == installed(name)
    assert not {"credscale", "ruff", "mypy"} & set(pinned)  # it is sent itself, and tests are no business of a host


def test_what_another_python_needs_and_is_not_here_is_left_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "pymongo", "only-then; python_version < '3.12'", "never; python_version < '3'",
        "for-arm; platform_machine == 'aarch64'",
    ]  # fmt: skip
    found = package._closure(wanted, {"python_version": "3.11", "platform_machine": "x86_64"})
    names = {Requirement(text).name for text in found}
    assert {"pymongo", "only-then"} <= names
    assert not {"never", "for-arm"} & names


def test_packages_are_others_for_another_python() -> None:
    pinned = ("a==1", "b==2")
    names = {
        package.name_of(each, LOOK | change)
        for each, change in (
            (pinned, {}), (pinned, {"python": "3.12.0"}), (pinned, {"platform": "linux-aarch64"}), (("a==1",), {}),
        )
    }  # fmt: skip
    assert len(names) == 4
    assert package.name_of(pinned, LOOK) == package.name_of(pinned, LOOK | {"python": "3.11.9", "free": 1})


@pytest.mark.parametrize(
    ("look", "there", "not_there"),
    [
        (LOOK, ["manylinux_2_36_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "cp311", "abi3"], "2_37"),
        (LOOK | {"libc": ["", ""], "python": "3.13.1"}, ["musllinux_1_2_x86_64", "cp313", "3.13"], "manylinux"),
        (LOOK | {"platform": "linux-aarch64"}, ["manylinux_2_28_aarch64"], "x86_64"),
    ],
)
def test_wheels_fit_the_host(look: dict[str, Any], there: list[str], not_there: str) -> None:
    words = package._fitting(look)
    assert set(there) <= set(words)
    assert not [word for word in words if not_there in word]


def test_requirements_are_packed_once(checkout: Path) -> None:
    packed = package.pack_requirements("p1", ("a==1", "b==2"), LOOK, wheels=False)
    with tarfile.open(packed) as archive:
        file = archive.extractfile("requirements.txt")
        assert file is not None
        assert file.read() == b"a==1\nb==2\n"
        assert archive.getnames() == ["requirements.txt"]
    before = packed.stat().st_mtime_ns
    assert package.pack_requirements("p1", ("a==1", "b==2"), LOOK, wheels=False).stat().st_mtime_ns == before


def test_what_pip_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreconditionFailed, match="no such option: --no-such-option. Nothing was changed"):
        package._pip("try", ["--no-such-option"], 60)
