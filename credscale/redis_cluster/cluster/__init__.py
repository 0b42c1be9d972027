"""What the nodes of a Redis Cluster say, understood and judged; everything else stands on this room."""
