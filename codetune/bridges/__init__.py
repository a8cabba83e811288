"""Bridges to other trainers' configurations: theirs read as ours, ours written as theirs."""
