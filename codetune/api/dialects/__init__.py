"""One module per dialect that clients speak."""
