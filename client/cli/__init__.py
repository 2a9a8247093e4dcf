"""The command fedct-site."""
