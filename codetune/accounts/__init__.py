"""Accounts: users, teams, logins, personal tokens, and the log of what they did."""
