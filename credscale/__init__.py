"""Runbooks that shard MongoDB, run Redis Cluster and scale services, and leave proof of what they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.errors import CredscaleError
    from credscale.core.runbook import Runbook, runbook
    from credscale.core.step import Finding, Result, Status, Step, probe, step

__all__ = ["Context", "CredscaleError", "Finding", "Result", "Runbook", "Status", "Step", "probe", "runbook", "step"]
__version__ = "0.1.0"

_HOMES = {
    "Context": "context",
    "CredscaleError": "errors",
    "Finding": "step",
    "Result": "step",
    "Runbook": "runbook",
    "Status": "step",
    "Step": "step",
    "probe": "step",
    "runbook": "runbook",
    "step": "step",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``invoke --list`` imports this package and needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'credscale' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"credscale.core.{_HOMES[name]}"), name)
