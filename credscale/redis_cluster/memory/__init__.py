"""How the nodes use their memory, what is dangerous about it, and when it will be full."""
