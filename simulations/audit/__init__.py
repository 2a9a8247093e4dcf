"""The audit of a study's privacy: what its mechanism really does, measured on public synthetic patients."""
