"""What the two pages that people work from have in common: accounts, sessions, guards, templates, one design."""
