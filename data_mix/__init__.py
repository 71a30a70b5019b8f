"""Data: sources, phased mixing, filters, dedup, decontamination, the miniature world."""
