"""Cleaning in scripts without blanks, with short prompts and with shared system messages."""

import json
from pathlib import Path

import pytest

from data_mix.decontaminate import Decontaminator, read_prompts
from data_mix.dedup import NearDuplicates, shingles
from data_mix.words import runs, words
from workbench.conversation import Conversation
from workbench.errors import UserError

QUESTIONS = {
    "chinese": "一个长方形的长是十二厘米，宽是八厘米，那么这个长方形的面积和周长分别是多少？",
    "japanese": "太郎さんはりんごを十二個買い、そのうち三個を友達にあげました。残りのりんごは何個ですか。",
    "thai": "ร้านค้าขายแอปเปิลสิบสองผลในตอนเช้าและขายส้มแปดผลในตอนบ่าย รวมแล้วร้านค้าขายผลไม้ไปทั้งหมดกี่ผล",
    "lao": "ຮ້ານຄ້າຂາຍໝາກໂປມສິບສອງໜ່ວຍໃນຕອນເຊົ້າ ແລະຂາຍໝາກກ້ຽງແປດໜ່ວຍໃນຕອນບ່າຍ ລວມທັງໝົດຂາຍໄດ້ຈັກໜ່ວຍ",
    "khmer": "ហាងមួយលក់ផ្លែប៉ោមដប់ពីរផ្លែនៅពេលព្រឹក និងលក់ក្រូចប្រាំបីផ្លែនៅពេលរសៀល តើហាងនោះលក់ផ្លែឈើបានប៉ុន្មាន",
    "burmese": "ဆိုင်တစ်ဆိုင်သည် မနက်ပိုင်းတွင် ပန်းသီးဆယ့်နှစ်လုံးရောင်းပြီး ညနေပိုင်းတွင် လိမ္မော်သီးရှစ်လုံးရောင်းသည်",
    "mixed": "请问 Python 中 list 和 tuple 的主要区别是什么，并说明 dict 在什么情况下更合适？",
}
OTHERS = {
    "chinese": "昨天下午我们一起去公园散步，看到许多孩子在草地上放风筝，天气非常晴朗，大家都很高兴。",
    "japanese": "昨日の午後、私たちは公園を散歩して、子供たちが凧を揚げているのを見ました。天気はとても良かったです。",
    "thai": "เมื่อวานตอนบ่ายเราไปเดินเล่นที่สวนสาธารณะและเห็นเด็กจำนวนมากเล่นว่าวอยู่บนสนามหญ้า อากาศดีมาก",
    "mixed": "我昨天在 GitHub 上看到一个 Rust 项目，它的 README 写得很清楚，推荐大家去看看。",
}


@pytest.mark.parametrize("script", QUESTIONS)
def test_a_question_inside_a_document_is_found(script: str) -> None:
    question = QUESTIONS[script]
    guard = Decontaminator([question])
    around = OTHERS.get(script, OTHERS["chinese"])
    assert guard.is_contaminated(f"{around}{question}{around}")
    assert not guard.is_contaminated(around)
    assert not guard.is_contaminated(question[: len(question) // 5] + around)


@pytest.mark.parametrize("script", OTHERS)
def test_near_duplicates_are_found(script: str) -> None:
    text = OTHERS[script] + QUESTIONS[script] * 1 + OTHERS[script][::-1] + QUESTIONS[script][::-1]
    near = NearDuplicates(similarity=0.7)
    assert near.is_new(text)
    assert not near.is_new(text[:60] + text[61:])
    assert near.is_new(OTHERS[script][::2] + QUESTIONS[script][1::2])
    assert len(shingles(text)) > 20


def test_runs_are_as_long_in_every_script() -> None:
    """13 words: 13 of English, 22 ideographs at 12/20, 52 letters at 5/20; hand-derived."""
    for text, length in (("word " * 60, 13), ("中" * 60, 22), ("ก" * 60, 52)):
        tokens, weights = words(text)
        assert {len(run) for run in runs(tokens, weights, 13)} == {length}
    assert words("Café naïve, ÜBER 3") == (["café", "naïve", "über", "3"], None)
    assert words("AI模型") == (["ai", "模", "型"], [20, 12, 12])
    assert words("\uff30\uff39\u6a21") == (["py", "模"], [20, 12])  # full width
    assert list(runs(*words("中文"), 13)) == []


def _chat(*turns: tuple[str, str]) -> Conversation:
    return Conversation("1", "chat", [{"role": role, "content": text} for role, text in turns])


@pytest.mark.parametrize(
    "prompt", ["2 + 3 = ?", "Why?", "为什么?", "What is the capital of France?"]
)
def test_a_short_prompt_removes_only_what_asks_it(prompt: str) -> None:
    guard = Decontaminator([prompt])
    assert not guard.is_contaminated(f"He wrote: {prompt} And then he left for the day.")
    assert not guard.is_contaminated(
        _chat(("user", f"Tell me a story. {prompt}"), ("assistant", "No."))
    )
    assert not guard.is_contaminated(_chat(("user", "Go left."), ("assistant", prompt)))
    assert not guard.is_contaminated(
        _chat(("user", "Go left."), ("assistant", "No."), ("user", prompt))
    )
    assert guard.is_contaminated(_chat(("user", prompt), ("assistant", "5")))
    assert guard.is_contaminated(_chat(("system", "Be brief."), ("user", f" {prompt.lower()} ")))
    assert guard.is_contaminated(prompt)


def test_a_prompt_of_eight_words_counts_inside_a_text() -> None:
    guard = Decontaminator(
        ["How many legs has a red spider today?", "How many legs has a red spider now then?"]
    )
    assert guard.is_contaminated("He asked how many legs has a red spider today, and left.")
    assert not guard.is_contaminated("He asked how many legs has a red spider now and left.")
    assert guard.is_contaminated("He asked how many legs has a red spider now, then left.")


def test_a_benchmark_s_system_message_removes_nothing(tmp_path: Path) -> None:
    system = (
        "You are a helpful assistant that answers every question of the user as briefly as it can."
    )
    row = _chat(
        ("system", system),
        ("user", "Name the seven largest rivers of the northern half of Europe."),
    )
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps(row.to_row()) + "\n", encoding="utf-8")
    prompts = read_prompts(str(path))
    assert prompts == ["Name the seven largest rivers of the northern half of Europe."]
    guard = Decontaminator(prompts)
    assert not guard.is_contaminated(
        _chat(("system", system), ("user", "Bake a cake."), ("assistant", "So."))
    )
    assert guard.is_contaminated(
        _chat(("system", system), ("user", prompts[0]), ("assistant", "So."))
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": null}', r"neither a `text` nor a conversation row \(text is None"),
        ("[1, 2]", "is not a JSON object but list"),
        ('{"domain": "a", "messages": ["x"]}', "neither a `text` nor a conversation row"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(UserError, match=rf"bench\.jsonl, line 2:? {problem}"):
        read_prompts(str(path))
