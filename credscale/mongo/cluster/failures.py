"""What an error of MongoDB or its driver means and what to do about it, by the table of ``failure_rules``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.mongo.cluster.failure_rules import (
    ELECTING,
    FOREIGN,
    LOST,
    NAMES,
    NOT_SENT,
    TABLE,
    TLS,
    UNCONFIRMED,
    UNKNOWN,
    Action,
    Rule,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

E = TypeVar("E", bound=BaseException)
_CODES = {name: code for code, name in NAMES.items()}
# Codes that say nothing themselves: mongos and the config servers wrap the error of another server in them.
_WRAPPERS = frozenset({None, 8, 96})
_CAUSE = re.compile(r"(?:caused by ::|failed with) (\w+)\b")
_TLS_TEXTS = ("certificate verify failed", "SSL handshake failed", "SSL routines")
_SEVERITY = {Action.RETRY: 0, Action.READ_BACK: 1, Action.STOP: 2}


@dataclass(frozen=True)
class Failure:
    """What an error means.

    Args:
        code_name: MongoDB's name of the error, or the driver's class.
        meaning: what has happened, as the beginning of a sentence.
        action: what to do.
        advice: a sentence for a person, for when the run has to end with this error.
        patience: seconds for which it is worth repeating what is idempotent; 0: not at all.
        code: the server's code; None where the error has none.
        text: what the server or the driver said, without what the driver adds.
    """

    code_name: str
    meaning: str
    action: Action
    advice: str
    patience: float = 0.0
    code: int | None = None
    text: str = ""


def explain_failure(error: BaseException) -> Failure:
    """Tell what an error means and what to do about it; nothing is asked of any server.

    Args:
        error: what the driver raised. Of several errors in one result the gravest counts; one that mongos wraps counts
            as what it wraps; a write concern's error always asks for a read back.
    """
    from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

    if not isinstance(error, PyMongoError):
        return _failure(FOREIGN, type(error).__name__, None, str(error))
    documents = list(_documents(error))
    if documents:
        found = [_of_document(document, unconfirmed=unconfirmed) for document, unconfirmed in documents]
        failure = max(found, key=lambda each: _SEVERITY[each.action])
    elif isinstance(error, OperationFailure):
        failure = _of_document({"code": error.code, "errmsg": text_of(error)}, unconfirmed=False)
    elif isinstance(error, ConnectionFailure):
        return _of_connection(error)
    else:
        return _failure(UNKNOWN, type(error).__name__, None, text_of(error))
    if error.has_error_label("RetryableWriteError") and failure.action is Action.STOP and _says_nothing(failure.code):
        return _failure(ELECTING, failure.code_name, failure.code, failure.text)
    return failure


def text_of(error: BaseException) -> str:
    """Return what an error says, without the reply and the topology that the driver appends."""
    return str(error).split(", full error: ")[0].split(", Timeout: ")[0]


def advised(error: E) -> E:
    """Return the error itself, its text made plain and ending with the advice; type, code and details stay."""
    failure = explain_failure(error)
    if failure.meaning != FOREIGN.meaning and not str(error).endswith(failure.advice):
        name = f"{failure.code_name} {failure.code}" if failure.code is not None else failure.code_name
        error.args = (f"{failure.text.rstrip('.')} ({name}): {failure.meaning}. {failure.advice}",)
    return error


def _failure(rule: Rule, name: str, code: int | None, text: str) -> Failure:
    return Failure(name, rule.meaning, rule.action, rule.advice, rule.patience, code, text)


def _says_nothing(code: int | None) -> bool:
    return code in _WRAPPERS or code not in TABLE


def _documents(error: BaseException) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Give the error documents that the driver kept, and whether each is a write concern's."""
    from pymongo.errors import WriteConcernError

    details = getattr(error, "details", None)
    if not isinstance(details, dict) or not details:
        return
    nested = [*details.get("writeErrors", ())]
    unconfirmed = [*details.get("writeConcernErrors", ())]
    if isinstance(details.get("writeConcernError"), dict):
        unconfirmed.append(details["writeConcernError"])
    yield from ((each, False) for each in nested if isinstance(each, dict))
    yield from ((each, True) for each in unconfirmed if isinstance(each, dict))
    if not nested and not unconfirmed:
        yield details, isinstance(error, WriteConcernError)


def _of_document(document: Mapping[str, Any], *, unconfirmed: bool) -> Failure:
    """Classify one error document: code, codeName, errmsg."""
    number, text = document.get("code"), str(document.get("errmsg", ""))
    code = int(number) if isinstance(number, int | float) else None
    name = str(document.get("codeName") or NAMES.get(code or 0) or (f"code {code}" if code else "no code"))
    if code in _WRAPPERS:
        causes = [_CODES[cause] for cause in _CAUSE.findall(text) if cause in _CODES]
        rule = TABLE[causes[-1]] if causes else TABLE.get(code or 0, UNKNOWN)
    else:
        rule = TABLE.get(code or 0, UNKNOWN)
    failure = _failure(rule, name, code, text)
    if unconfirmed:
        patience = UNCONFIRMED.patience if failure.patience else 0.0
        return replace(failure, action=UNCONFIRMED.action, meaning=UNCONFIRMED.meaning, patience=patience)
    return failure


def _of_connection(error: BaseException) -> Failure:
    """Classify what the driver raises by itself when it has no reply."""
    from pymongo.errors import ServerSelectionTimeoutError, WaitQueueTimeoutError

    text, name = text_of(error), type(error).__name__
    if any(each in text for each in _TLS_TEXTS):
        return _failure(TLS, name, None, text)
    rule = NOT_SENT if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError) else LOST
    return _failure(rule, name, None, text)
