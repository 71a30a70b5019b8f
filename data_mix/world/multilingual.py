"""Sums and capitals in German, Spanish, French, Italian and Japanese, traces included."""

from random import Random

from data_mix.world import arithmetic
from data_mix.world.facts import CAPITALS_SHARED, RELATIONS
from data_mix.world.languages import LANGUAGES, Wordings
from data_mix.world.problem import Problem
from data_mix.world.science import CHOICE, choice_key, label, line, told_apart
from workbench.conversation import CheckSpec

_NAMES = ("Ana", "Ben", "Eva", "Leo")


def word_sum(rng: Random, language: Wordings, terms: arithmetic.Terms) -> str:
    """One wording of the sum in the language: three plain ones and a story."""
    form = rng.randrange(len(language.asks) + 1)
    if form < len(language.asks):
        return language.asks[form].format(e=terms.expression)
    has, gets, loses, question = language.story
    name = rng.choice(_NAMES)
    parts = [has.format(n=name, a=terms.values[0])]
    parts += [(gets if v >= 0 else loses).format(n=name, a=abs(v)) for v in terms.values[1:]]
    return " ".join([*parts, question])


def sum_problem(rng: Random, language: Wordings, terms: arithmetic.Terms) -> Problem:
    """The sum asked in `language`; its key is the English problem's, so that splits agree."""
    return Problem(
        key=terms.key,
        prompt=word_sum(rng, language, terms),
        trace="\n".join([language.solution, *terms.steps]),
        answer=str(terms.total),
        check=CheckSpec("math", str(terms.total)),
    )


def _capital_problem(rng: Random, language: Wordings) -> Problem:
    english = next(relation for relation in RELATIONS if relation.name == "capital")
    in_english = [english.facts[country] for country in CAPITALS_SHARED]
    subjects, capitals = list(language.capitals), list(language.capitals.values())
    offered = told_apart(rng.sample(in_english, len(in_english)))
    right = rng.choice(offered)
    place = in_english.index(right)
    # Labels are initials of the English names: Japanese has none.
    lines = {name: line(capitals[in_english.index(name)], label(name)) for name in offered}
    fact = language.capital_fact.format(s=subjects[place], o=capitals[place])
    return Problem(
        key=choice_key(english, CAPITALS_SHARED[place], offered),
        prompt="\n".join([language.capital_ask.format(s=subjects[place]), *lines.values()]),
        trace=f"{fact}\n{lines[right]}",
        answer=label(right),
        check=CheckSpec("choice", label(right), CHOICE),
    )


def propose(rng: Random, split: str) -> Problem:
    """A sum (3 in 4) or a capital (1 in 4) in one of the five languages."""
    language = rng.choice(LANGUAGES)
    if rng.random() < 0.25:
        return _capital_problem(rng, language)
    return sum_problem(rng, language, arithmetic.draw_terms(rng, arithmetic.draw_length(rng)))
