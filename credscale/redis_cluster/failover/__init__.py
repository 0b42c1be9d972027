"""Manual failover: who may take over from whom, in which order, and what clients see meanwhile."""
