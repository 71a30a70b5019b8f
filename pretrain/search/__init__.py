"""Stage kind `search`: candidates of a compression, each distilled shortly, scored, and one picked."""
