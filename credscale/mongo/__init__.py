"""MongoDB: facts (read), plan (pure), steps (change)."""
