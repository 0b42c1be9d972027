"""Manual failover: who may take over from whom, in which order, and that it happened."""
