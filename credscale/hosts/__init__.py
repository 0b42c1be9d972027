"""The hosts of an environment: disks, clocks, limits, huge pages and versions, asked all at once over SSH."""
