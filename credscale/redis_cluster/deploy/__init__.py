"""From hosts to a Redis Cluster: files, processes, slots and replicas, and what clients have to be told."""
