"""Documents as bytes, keys and history: digest, scan, snapshot, oplog, shard key, samples."""
