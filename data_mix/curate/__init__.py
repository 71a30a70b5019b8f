"""Stage kind `curate`: rows in, rows out by named steps."""
