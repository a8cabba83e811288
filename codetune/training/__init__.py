"""Training: the only train loop, for every method."""
