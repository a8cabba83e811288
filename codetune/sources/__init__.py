"""Where code comes from: git repositories, folders and archives, read without running anything."""
