"""What is worth learning from: every file is kept, or dropped with one counted reason."""
