"""Documents as bytes and history: digest, scan, snapshot, oplog, samples."""
