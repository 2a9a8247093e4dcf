"""Aggregation: one strategy a file, over flat vectors."""
