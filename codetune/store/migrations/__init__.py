"""The changes of the schema, oldest first; each is a file in `versions`."""
