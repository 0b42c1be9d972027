"""Only what a killed dump left behind is ever removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.mongo.backup.leftovers import leftovers, new_folder, remove

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "20261123T101112Z-0a1b2c"


def partial(folder: Path) -> None:
    data = folder / "dump.partial" / "shop"
    data.mkdir(parents=True)
    (data / "orders.bson").write_bytes(b"x" * 9000)
    (data / "prelude.json").write_text("{}")
    (data / "orders.metadata.json.partial").write_text("{")


def published(folder: Path) -> None:
    partial(folder)
    (folder / "dump.partial").rename(folder / "dump")
    (folder / "manifest.json.partial").write_text("{")


def hashes(folder: Path) -> None:
    data = folder / "dump.partial" / "shop"
    data.mkdir(parents=True)
    (data / "orders.hashes").write_bytes(b"x" * 9000)


def empty(folder: Path) -> None:
    folder.mkdir()


@pytest.mark.parametrize("make", [partial, published, hashes, empty])
def test_unfinished(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / NAME
    make(folder)
    found = leftovers(tmp_path)
    assert [each.folder for each in found] == [folder]
    assert found[0].bytes >= (0 if make is empty else 9000)
    remove(folder)
    assert not folder.exists()


def finished(folder: Path) -> None:
    published(folder)
    (folder / "manifest.json").write_text("{}")


def with_a_stranger(folder: Path) -> None:
    partial(folder)
    (folder / "notes.txt").write_text("keep me")


def with_a_strange_dump(folder: Path) -> None:
    partial(folder)
    (folder / "dump.partial" / "shop" / "notes.txt").write_text("keep me")


def with_a_deeper_folder(folder: Path) -> None:
    partial(folder)
    (folder / "dump.partial" / "shop" / "deeper").mkdir()


def with_a_link(folder: Path) -> None:
    partial(folder)
    (folder / "dump.partial" / "shop" / "other.bson").symlink_to(folder)


@pytest.mark.parametrize("make", [finished, with_a_stranger, with_a_strange_dump, with_a_deeper_folder, with_a_link])
def test_what_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / NAME)
    assert leftovers(tmp_path) == []
    remove(tmp_path / NAME)
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    "name", ["mine", "20261123T101112Z-0a1b2", "20261123T101112Z-0A1B2C", "x20261123T101112Z-0a1b2c"]
)
def test_another_name_stays(name: str, tmp_path: Path) -> None:
    partial(tmp_path / name)
    assert leftovers(tmp_path) == []


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    partial(tmp_path / "elsewhere")
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    assert leftovers(tmp_path) == []


def test_our_own_names_are_recognised(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    partial(folder)
    assert [each.folder for each in leftovers(tmp_path)] == [folder]
    assert leftovers(tmp_path / "nowhere") == []
