"""Local training and evaluation at a site."""
