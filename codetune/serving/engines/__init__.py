"""The engines behind the one Protocol."""
