"""Runbooks: plain functions whose body is step calls."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, RunFailed, StepFailed, Stopped
from credscale.core.signals import uninterrupted

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.step import Step

RunbookFunction = Callable[..., None]
_KINDS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Runbook:
    """A procedure: called with the context and keyword parameters.

    Args:
        function: ``function(ctx, *, parameters)``; each is a str, int, float or bool.
        afterwards: steps without parameters that run at the end whatever happened, also after a kill by the next
            run; they put back what a run had to change for its own time.
        task: the invoke task's name; the function's with dashes when empty.
        has_notebook: whether ``notebooks/`` holds one for it; a single step has none.
        inherited: parameters whose values a single step takes from the runbooks.
        reads_only: whether it changes nothing; then it needs no plan, lock, ticket or confirmation, and runs at once.
        builds_target: whether its target may not exist yet, so that no lease can be kept in it; operators on several
            machines are then held apart only by every step looking first.
        target: ``mongo`` or ``redis``: where its lease is kept and whose version its journal names.
        repairs: whether it is for a target that may serve nothing; where no lease can be kept it does without.
        keep_going: whether it looks at several targets, so that one in trouble must not hide the others: what fails
            is recorded, the next probe runs, and the run ends failed with all reasons. Only with ``reads_only``.
    """

    def __init__(
        self,
        function: RunbookFunction,
        afterwards: tuple[Step[[]], ...],
        *,
        task: str = "",
        has_notebook: bool = True,
        inherited: set[str] | None = None,
        reads_only: bool = False,
        builds_target: bool = False,
        target: str = "mongo",
        keep_going: bool = False,
        repairs: bool = False,
    ) -> None:
        if keep_going and not reads_only:
            raise TypeError(f"{function.__name__}: what changes something stops at the first failure")
        update_wrapper(self, function)
        self.function, self.afterwards, self.has_notebook = function, afterwards, has_notebook
        self.reads_only, self.builds_target, self.target = reads_only, builds_target, target
        self.keep_going, self.repairs = keep_going, repairs
        self.inherited = inherited if inherited is not None else set()
        self.name = task or function.__name__.replace("_", "-")
        self.module = function.__module__
        self.__signature__ = inspect.signature(function)
        self.parameters: dict[str, inspect.Parameter] = dict(list(self.__signature__.parameters.items())[1:])
        for name, parameter in self.parameters.items():
            if parameter.annotation not in _KINDS:
                raise TypeError(f"{self.name}: parameter {name} needs an annotation: {', '.join(_KINDS)}")

    @property
    def title(self) -> str:
        """The first line of the documentation."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]

    def coerce(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values as the parameters' types, defaults filled in.

        Raises:
            EnvironmentInvalid: a name that is no parameter, one that is missing, or a value of the wrong type.
        """
        unknown = set(values) - set(self.parameters)
        if unknown:
            names = ", ".join(sorted(self.parameters))
            raise EnvironmentInvalid(f"{self.name} has no parameter {sorted(unknown)[0]!r}. It has: {names}")
        for name, parameter in self.parameters.items():
            if parameter.default is parameter.empty and name not in values:
                raise EnvironmentInvalid(f"{self.name} needs --{name.replace('_', '-')}")
        return {
            name: _coerce(self.name, name, values.get(name, parameter.default), parameter.annotation)
            for name, parameter in self.parameters.items()
        }

    def __call__(self, ctx: Context, **params: Any) -> None:
        """Run the steps, then what must be put back.

        Raises:
            RunFailed: a step failed; its Result is the cause's.
        """
        values = self.coerce(params)
        ctx.keep_going = self.keep_going
        status, text = "aborted", "stopped by an error outside a step"
        try:
            self.function(ctx, **values)
            self.judge(ctx)
            status, text = "ok", "done"
        except StepFailed as failure:
            status, text = "failed", str(failure)
            raise RunFailed(text, ctx.journal.path) from failure
        except RunFailed as failure:
            status, text = "failed", str(failure)
            raise
        except Stopped as asked:
            status, text = "interrupted", str(asked)
            raise
        except KeyboardInterrupt:
            status, text = "interrupted", "interrupted by the operator"
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.finish(ctx, status, text)

    def judge(self, ctx: Context) -> None:
        """Fail a run that kept going, with the reasons of all that failed in it.

        Raises:
            RunFailed: its cause is the first failure.
        """
        if ctx.failures:
            raise RunFailed("; ".join(map(str, ctx.failures)), ctx.journal.path) from ctx.failures[0]

    def finish(self, ctx: Context, status: str, text: str) -> None:
        """Put back what has to be put back and write the journal's last line; Ctrl-C has to wait for it.

        In a dry run that got this far the putting back is planned like any other change.

        Args:
            status: how the steps ended: ok, failed, aborted or interrupted.
            text: the same in words.
        """
        ctx.ending = True
        with uninterrupted(drop=True):
            try:
                for step in self.afterwards if status == "ok" or not ctx.dry_run else ():
                    step(ctx)
            except StepFailed as failure:
                status = "failed" if status == "ok" else status
                text = f"{text}; {failure}"
            finally:
                changes = ctx.changes if ctx.dry_run else ctx.journal.changes_made()
                ctx.journal.append("run_finished", status=status, text=text, changes=changes)


def runbook(
    *,
    afterwards: tuple[Step[[]], ...] = (),
    reads_only: bool = False,
    builds_target: bool = False,
    target: str = "mongo",
    keep_going: bool = False,
) -> Callable[[RunbookFunction], Runbook]:
    """Make a function a runbook.

    Args:
        afterwards: see ``Runbook``.
        reads_only: see ``Runbook``.
        builds_target: see ``Runbook``.
        target: see ``Runbook``.
        keep_going: see ``Runbook``.
    """
    return lambda function: Runbook(
        function, afterwards, reads_only=reads_only, builds_target=builds_target, target=target, keep_going=keep_going
    )


def _coerce(runbook_name: str, name: str, value: Any, annotation: str) -> Any:
    kind = _KINDS[annotation]
    problem = EnvironmentInvalid(
        f"{runbook_name}: parameter {name} must be {_ARTICLES[annotation]}, not {value!r}. "
        f"Give it as --{name.replace('_', '-')}"
    )
    if kind is bool and isinstance(value, str):
        if value.lower() not in _WORDS:
            raise problem
        return _WORDS[value.lower()]
    if isinstance(value, bool) and kind is not bool:
        raise problem
    if kind is str and not isinstance(value, str):
        raise problem
    try:
        coerced = kind(value)
    except (TypeError, ValueError):
        raise problem from None
    if kind is int and isinstance(value, float) and coerced != value:
        raise problem
    if kind is float and not math.isfinite(coerced):
        raise problem
    return coerced


_ARTICLES = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
