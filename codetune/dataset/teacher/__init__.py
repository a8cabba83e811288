"""An optional model that words the instructions; answers stay the repository's own text."""
