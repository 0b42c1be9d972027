"""A sharded cluster on this machine, to learn, rehearse and test with."""

from credscale.lab.cluster import down, status, up
from credscale.lab.seeding import seed
from credscale.lab.state import LabState

__all__ = ["LabState", "down", "seed", "status", "up"]
