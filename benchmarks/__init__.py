"""One script per claim; each runs both sides and prints a ratio. `make bench` runs them all."""
