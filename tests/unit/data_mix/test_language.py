"""Step `language`: one sentence in each of the sixteen, and what becomes of the others."""

import pytest

from data_mix.curate.config import LANGUAGES, CurateConfig, LanguageStep
from data_mix.curate.plan import check_inputs
from data_mix.curate.steps.language import identifier
from workbench.errors import UserError

# The first article of the Universal Declaration of Human Rights begins so, in the UN's translations.
BORN_FREE = {
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "da": "Alle mennesker er født frie og lige i værdighed og rettigheder.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "en": "All human beings are born free and equal in dignity and rights.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter.",
    "th": "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
}


def test_one_sentence_is_enough_to_tell_sixteen_languages_apart() -> None:
    found = identifier(LANGUAGES)
    assert {code: str(found.classify(text)[0]) for code, text in BORN_FREE.items()} == {
        code: code for code in LANGUAGES
    }


def test_a_language_to_keep_must_be_one_to_choose_from() -> None:
    with pytest.raises(UserError, match="unknown language to keep 'english'"):
        LanguageStep.read({"type": "language", "keep": ["english"]}, where="x")


def test_languages_to_choose_from_must_be_known_before_a_run() -> None:
    def config(among: list[str]) -> CurateConfig:
        raw = {
            "kind": "curate",
            "input": {"type": "shards", "stage": "a"},
            "steps": [{"type": "language", "among": among}],
        }
        return CurateConfig.read(raw, where="x")

    check_inputs(config(["en", "ace"]))
    with pytest.raises(UserError, match="unknown language 'xx'"):
        check_inputs(config(["en", "xx"]))
    with pytest.raises(UserError, match="at least 1 item"):
        config([])
