"""Every secret of an environment, resolved as far as possible, so that none of them is shown by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, MissingExtra
from credscale.core.secrets import Secrets, is_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.environment import Environment


def secrets_of(environment: Environment) -> Secrets:
    """Return secrets that hide everything that an environment refers to, whether a run has needed it or not.

    A reference that cannot be resolved here cannot be resolved by the run either, so nothing of it can leak.

    Args:
        environment: its references are resolved.
    """
    secrets = Secrets()
    for reference in references_of(environment):
        try:
            secrets.resolve(reference)
        except (EnvironmentInvalid, MissingExtra):
            continue
    return secrets


def references_of(environment: Environment) -> Iterator[str]:
    """Yield every secret reference of an environment."""
    yield from _references(environment.model_dump(mode="json"))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and is_reference(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
