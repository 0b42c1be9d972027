"""Slots moved from primary to primary, and nodes that join and leave, while clients go on."""
