"""The dataset station: cleaned documents become training examples, tokens and held-out code."""
