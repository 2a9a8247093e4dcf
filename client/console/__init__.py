"""The site's page: ``fedct-site console``. It looks, approves and ingests; nothing of it leaves the hospital."""
