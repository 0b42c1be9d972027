"""References resolve, values stay hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import EnvironmentInvalid
from credscale.core.secrets import Secrets, has_password, is_reference

if TYPE_CHECKING:
    from pathlib import Path


def test_environment_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDSCALE_TEST_SECRET", "correct horse")
    (tmp_path / "s").write_text("battery staple\n")
    secrets = Secrets()
    assert secrets.resolve("env:CREDSCALE_TEST_SECRET") == "correct horse"
    assert secrets.resolve(f"file:{tmp_path}/s") == "battery staple"
    assert secrets.mask("correct horse, battery staple, stable") == "********, ********, stable"


@pytest.mark.parametrize("reference", ["env:CREDSCALE_ABSENT", "file:/nowhere/at/all"])
def test_an_absent_secret_is_named_by_its_reference(reference: str) -> None:
    with pytest.raises(EnvironmentInvalid) as caught:
        Secrets().resolve(reference)
    assert reference.partition(":")[2] in str(caught.value)


def test_password_of_a_uri_is_hidden_also_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDSCALE_URI", "mongodb://ops:p%40ss%2Fword@h1:27017,h2:27017/?authSource=admin")
    secrets = Secrets()
    secrets.resolve("env:CREDSCALE_URI")
    masked = secrets.mask("tried p@ss/word and mongodb://ops:p%40ss%2Fword@h1:27017 in vain")
    assert "p@ss" not in masked
    assert "p%40ss" not in masked
    assert "ops:********@h1" in masked


def test_the_address_of_a_uri_without_password_stays_readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("mongodb://127.0.0.1:27017/")
    secrets = Secrets()
    uri = secrets.resolve(f"file:{tmp_path}/uri")
    assert secrets.mask(f"connecting to {uri}") == f"connecting to {uri}"


def test_unseen_uris_are_masked_by_shape() -> None:
    assert Secrets().mask("redis://:s3cret@r1:7000") == "redis://:********@r1:7000"


def test_kinds() -> None:
    assert is_reference("keyring:credscale/ops")
    assert not is_reference("mongodb://h:1")
    assert has_password("mongodb://a:b@h")
    assert not has_password("mongodb://h:27017/?x=a@b")
