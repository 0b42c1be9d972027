"""The drill: break a node on purpose, measure what clients see, put it back, see that all is well."""
