"""Runs on another machine (``--on HOST``): what is sent there, how it is followed, how its evidence comes back.

``agent`` is the one module that runs on the host before anything is installed there; ``worker`` is the run itself,
which goes on when the connection or this terminal does not. Everything it tells is lines of one file, the run's stream,
which any number of terminals can read from any place in it.
"""
