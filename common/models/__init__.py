"""ResNets that per-example gradients can go through."""
