"""The pipeline: which stages run, in what order, what is skipped, and running them on Ray."""
