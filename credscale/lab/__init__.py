"""A sharded MongoDB cluster and a Redis Cluster on this machine, to learn, rehearse and test with."""

from credscale.lab.cluster import down, status, up
from credscale.lab.redis_servers import redis_down, redis_nodes, redis_up
from credscale.lab.seeding import seed
from credscale.lab.state import LabState

__all__ = ["LabState", "down", "redis_down", "redis_nodes", "redis_up", "seed", "status", "up"]
