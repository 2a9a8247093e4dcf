"""What both sides must agree on."""
