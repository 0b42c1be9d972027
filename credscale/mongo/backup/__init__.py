"""Backups: taken, verified, declared, restored for a trial."""
