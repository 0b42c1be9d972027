"""Shard-key advice: which key fits the data and the queries, and which writes break under it."""
