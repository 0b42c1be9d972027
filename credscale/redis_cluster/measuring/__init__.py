"""Clients that write while something happens, and what they saw: gaps, errors, acknowledged writes lost."""
