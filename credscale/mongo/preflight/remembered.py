"""A property that is read once, whatever comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Holder(Protocol):
    """What has such properties.

    Args:
        failures: why a property could not be read, by its name.
    """

    failures: dict[str, Exception]


class remembered(Generic[T]):  # noqa: N801 - used as cached_property is
    """A property that is read once; a failure is kept as well, since the next check would only wait as long for it."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read, self._name, self.__doc__ = read, read.__name__, read.__doc__

    def __get__(self, holder: Holder, _owner: type[Holder] | None = None) -> T:
        """Return what was read, or raise why it could not be."""
        if self._name in holder.failures:
            raise holder.failures[self._name]
        try:
            value = self._read(holder)
        except Exception as error:
            holder.failures[self._name] = error
            raise
        holder.__dict__[self._name] = value  # found before this descriptor from now on
        return value
