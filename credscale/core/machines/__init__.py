"""Machines: this one and those reached over SSH, behind one small interface."""

from credscale.core.machines.local import LocalMachine
from credscale.core.machines.machine import Completed, Machine
from credscale.core.machines.ssh import SshMachine

__all__ = ["Completed", "LocalMachine", "Machine", "SshMachine"]
