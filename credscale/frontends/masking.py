"""The mask of a whole environment: every secret that it refers to, resolved as far as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, MissingExtra
from credscale.core.secrets import Secrets, is_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.core.environment import Environment


def mask_for(environment: Environment, secrets: Secrets) -> Callable[[str], str]:
    """Return a mask that hides every secret of an environment.

    A reference that cannot be resolved here was not resolved by the run either, so nothing of it can have leaked.

    Args:
        environment: its references are resolved.
        secrets: remembers the values.
    """
    for reference in _references(environment.model_dump(mode="json")):
        try:
            secrets.resolve(reference)
        except (EnvironmentInvalid, MissingExtra):
            continue
    return secrets.mask


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and is_reference(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
