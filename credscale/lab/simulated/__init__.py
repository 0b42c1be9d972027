"""A rehearsal stage: SecantusDB processes as shards, and a simulated mongos in front of them. Not a database."""
