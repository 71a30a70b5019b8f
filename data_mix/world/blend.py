"""The miniature's three-phase pretraining blend over the paper's thirteen categories.

Switches at 60% and 90% of tokens [paper]. Weights in percent. Known from the project's slides and
kept: phase 3 crawl-high 10, math 11, stem-sft 32; phase 2 wikipedia 0.9. Everything else is ours:
the slides' phase 1 is 60% web crawl, and a model that sees four million tokens in all would learn
little but crawl from it.
"""

PRETRAINING_KINDS: tuple[str, ...] = (
    "crawl-medium", "crawl-medium-high", "crawl-high", "syn-crawl-high", "crawl-plus",
    "math", "wikipedia", "code", "academic", "multilingual",
    "general-sft", "stem-sft", "code-sft",
)  # fmt: skip

# (until which share of all tokens, weights in percent)
PHASES: tuple[tuple[float, dict[str, float]], ...] = (
    (
        0.6,
        {
            "crawl-medium": 1, "crawl-medium-high": 1, "crawl-high": 2, "syn-crawl-high": 14,
            "crawl-plus": 1, "math": 12, "wikipedia": 4, "code": 3, "academic": 3,
            "multilingual": 9, "general-sft": 20, "stem-sft": 21, "code-sft": 9,
        },
    ),
    (
        0.9,
        {
            "crawl-medium": 0, "crawl-medium-high": 1, "crawl-high": 2, "syn-crawl-high": 6,
            "crawl-plus": 1, "math": 11, "wikipedia": 0.9, "code": 2, "academic": 3.1,
            "multilingual": 9, "general-sft": 26, "stem-sft": 28, "code-sft": 10,
        },
    ),
    (
        1.0,
        {
            "crawl-medium": 0, "crawl-medium-high": 0, "crawl-high": 10, "syn-crawl-high": 2,
            "crawl-plus": 0, "math": 11, "wikipedia": 1, "code": 1, "academic": 1,
            "multilingual": 6, "general-sft": 26, "stem-sft": 32, "code-sft": 10,
        },
    ),
)  # fmt: skip
