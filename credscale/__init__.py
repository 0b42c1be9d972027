"""Runbooks that shard MongoDB, run Redis Cluster and scale services, and leave proof of what they did."""

from credscale.core.context import Context
from credscale.core.errors import CredscaleError
from credscale.core.runbook import Runbook, runbook
from credscale.core.step import Finding, Result, Status, Step, probe, step

__all__ = ["Context", "CredscaleError", "Finding", "Result", "Runbook", "Status", "Step", "probe", "runbook", "step"]
__version__ = "0.1.0"
