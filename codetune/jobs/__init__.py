"""Work in the background: a durable queue in the database, workers, one child process a job."""
