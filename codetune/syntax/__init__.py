"""What codetune knows about programming languages: their names, and where their parts begin."""
