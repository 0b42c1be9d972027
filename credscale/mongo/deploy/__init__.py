"""From hosts to a sharded cluster that accepts shard-migrate."""
