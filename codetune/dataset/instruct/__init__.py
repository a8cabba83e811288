"""Instruction data with real answers: questions are worded, answers are the repository's text."""
