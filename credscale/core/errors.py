"""Every error credscale raises on purpose.

    CredscaleError
      EnvironmentInvalid    the environment file or a parameter is wrong; exit code 2
      UnknownTarget         a name that no environment knows (also a KeyError)
      MissingExtra          an optional package is absent; names the pip extra
      Refused               policy, window, lock or confirmation; nothing was changed; exit code 3
      Stopped               somebody asked the run to stop before its next step
      ConnectFailed         a target could not be reached
      PreconditionFailed    found before any change
      VerificationFailed    a comparison found a difference
      WaitTimeout           a change was applied, the expected state was not seen
      JournalBroken         a journal line does not chain to the one before it
      StepFailed            what a caller of a step sees; carries the Result
      RunFailed             what a caller of a runbook sees; carries the journal's path

A message says what was expected, what was seen, on which target, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.step import Result

Why = Literal["unreachable", "refused", "host key", "auth", "timed out", "broken"]


class CredscaleError(Exception):
    """The base of every deliberate error."""


class EnvironmentInvalid(CredscaleError):
    """The environment file, a flag or a parameter is wrong."""


class UnknownTarget(CredscaleError, KeyError):
    """A host, cluster or environment that is not in the inventory."""

    def __str__(self) -> str:
        """Return the plain sentence; KeyError would quote it."""
        return str(self.args[0]) if self.args else ""


class MissingExtra(CredscaleError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the missing Python package.
        extra: the pip extra that brings it.
        purpose: what needs it, as a noun phrase.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'credscale[{extra}]'")


class Refused(CredscaleError):
    """A rule forbids the run; nothing was changed."""


class Stopped(CredscaleError):
    """Somebody asked the run to stop before its next step."""


class ConnectFailed(CredscaleError):
    """A target did not answer.

    Args:
        message: what was tried, on which target, what was seen and what to do.
        why: how it failed: ``refused`` when its port is closed, ``auth`` when it did not let us in, ``broken`` when the
            connection ended in the middle.
    """

    def __init__(self, message: str, why: Why = "unreachable") -> None:
        super().__init__(message)
        self.why: Why = why


class Observed(CredscaleError):
    """The base of the errors that a step raises about what it saw.

    Args:
        message: what was expected, what was seen and what to do.
        output: the finding as JSON-compatible data; it becomes the failed step's output.
    """

    def __init__(self, message: str, output: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.output = output if output is not None else {}


class PreconditionFailed(Observed):
    """The target is not in the state a step needs; found before any change."""


class VerificationFailed(Observed):
    """A comparison found a difference."""


class WaitTimeout(Observed):
    """A change was applied but the expected state was not seen in time."""


class JournalBroken(CredscaleError):
    """A journal does not chain.

    Args:
        path: the journal file.
        line: one-based number of the first broken line.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}: line {line}: {reason}")
        self.path, self.line, self.reason = path, line, reason


class StepFailed(CredscaleError):
    """A step ended in failure; its cause is ``__cause__``."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"{result.step} failed: {result.error}")
        self.result = result


class RunFailed(CredscaleError):
    """A runbook ended in failure."""

    def __init__(self, message: str, journal: Path | None) -> None:
        super().__init__(message)
        self.journal = journal
