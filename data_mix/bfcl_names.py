"""Names that a recipe may use of BFCL's data; apart from the data so that recipes load nothing."""

BFCL_CATEGORIES = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
BFCL_SPLITS = ("train", "test")
