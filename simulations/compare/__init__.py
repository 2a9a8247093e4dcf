"""Was it worth it? Studies, folds and ways to train, on the same patients."""
