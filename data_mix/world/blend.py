"""The paper's thirteen categories of pretraining data, and two of ours; how much of each, the recipe says."""

PRETRAINING_KINDS: tuple[str, ...] = (
    "crawl-medium", "crawl-medium-high", "crawl-high", "syn-crawl-high", "crawl-plus",
    "math", "wikipedia", "code", "academic", "multilingual",
    "general-sft", "stem-sft", "code-sft",
    "copying-few", "copying-all",  # ours: what a model of a million parameters copies in before all else
)  # fmt: skip
