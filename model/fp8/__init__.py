"""`precision: fp8`: matrix products of E4M3 blocks, as the paper trains, and their gather between processes."""
