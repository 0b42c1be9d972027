"""The change itself: the plan, the balancer, the index, shardCollection."""
