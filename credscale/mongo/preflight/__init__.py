"""Everything that must hold before a collection is sharded: the 56 checks of reference §5, one function each.

``check`` is the frame, ``look`` reads the cluster once for all of them, ``catalogue`` lists them in the order of the
reference, ``step`` runs those that are asked for. The other modules hold the checks by subject.
"""
