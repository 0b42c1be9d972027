"""The proof after a migration: counts, contents, catalogue, reads."""
