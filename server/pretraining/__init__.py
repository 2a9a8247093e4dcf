"""Weights to start from that no patient and no photograph has gone into."""
