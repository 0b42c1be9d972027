"""How to talk to a cluster, and what it says of itself: commands, failures, facts, settings, shard key."""
