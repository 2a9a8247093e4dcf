"""The coordinator's page: studies, sites, results, launch. It shows what the run folders and the registry hold."""
