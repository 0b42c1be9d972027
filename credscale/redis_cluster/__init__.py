"""Redis Cluster, and Valkey's: what the nodes say, whether they agree, what is wrong, and how full they are."""
