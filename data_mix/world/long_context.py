"""Long samples for SFT stage 3: pages of natural text with one code word in, a question last."""

from random import Random

from data_mix.world import natural
from data_mix.world.instructions import KEYWORDS
from data_mix.world.problem import Problem, propose_in_split
from workbench.conversation import CheckSpec, Conversation

_PLACES = ("hall", "tower", "garden", "office", "kitchen", "market", "bridge", "school")


def long_context(index: int, *, split: str, seed: int, num_characters: int = 4_000) -> Conversation:
    """Conversation number `index`: about `num_characters` of text with the fact at a random depth.

    Its check is IFEval's keywords:existence on the code word.
    """

    def propose(rng: Random, split: str) -> Problem:
        place, word = rng.choice(_PLACES), rng.choice(KEYWORDS)
        number = rng.randint(10, 99)
        fact = f"The code of the {place} is {word} {number}."
        pages: list[str] = []
        while sum(map(len, pages)) < num_characters:
            pages.append(natural.passage(rng, "high"))
        pages.insert(rng.randrange(len(pages) + 1), fact)
        reference = [
            {"instruction_id": "keywords:existence", "kwargs": {"keywords": [f"{word} {number}"]}}
        ]
        return Problem(
            key=f"code:{place}:{word}:{number}",
            prompt="\n".join([*pages, f"What is the code of the {place}?"]),
            trace=fact,
            answer=f"{word} {number}",
            check=CheckSpec("instructions", reference),
        )

    rng = Random(f"{seed}/long_context/{split}/{num_characters}/{index}")
    problem = propose_in_split(propose, rng, split)
    return problem.conversation(domain="long_context", identity=f"long-{split}-{seed}-{index}")
