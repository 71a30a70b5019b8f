"""reasoning-gym's tasks whose answer is one plain number: task -> the package's folder of it."""

REASONING_TASKS = {
    "basic_arithmetic": "arithmetic",
    "chain_sum": "arithmetic",
    "count_bits": "arithmetic",
    "gcd": "arithmetic",
    "lcm": "arithmetic",
    "leg_counting": "arithmetic",
    "letter_counting": "algorithmic",
    "products": "arithmetic",
}
REASONING_SPLITS = ("train", "test")
