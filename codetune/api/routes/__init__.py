"""codetune's own routes: accounts, and what they own."""
