"""One hospital."""
