"""Measurements, kept with their commands in docs/benchmarks.md."""
