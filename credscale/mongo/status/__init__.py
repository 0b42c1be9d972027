"""The state of a cluster on one screen."""
