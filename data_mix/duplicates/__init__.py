"""Stage kind `dedup`: exact and near duplicates, on disk, across stages."""
