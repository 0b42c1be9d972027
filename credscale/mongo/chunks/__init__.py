"""Chunks and their moves: where they lie, how they spread, why they do not."""
