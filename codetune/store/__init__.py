"""What is kept in the database: accounts, jobs, and who owns what. Models stay on disk."""
