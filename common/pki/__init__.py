"""Keys, certificates, invitations, requests and signatures: pure functions with an explicit clock."""
