"""Mechanism events, and epsilon derived from them."""
