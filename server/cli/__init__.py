"""The command fedct-coordinator."""
