"""Endings of real kinds of replies, read by hand: hedges, distractors, ruled-out options, languages.

None: no choice can be read (wrong_format). Ten options unless a test says otherwise.
"""

import re
import time
from pathlib import Path

import pytest

from reward import check
from reward.choice import extract_choice

TEN = "ABCDEFGHIJ"
ENDINGS: list[tuple[str, str | None]] = [
    # What is said after the answer does not change it.
    ("The answer is B. Option A is a common distractor.", "B"),
    ("The answer is B.\nOption A: too small. Option C: too large.", "B"),
    ("Answer: B\n\nChoice A is wrong because of the sign.", "B"),
    ("The answer is (B). Note that answer A would ignore friction.", "B"),
    ("The answer is B; A is too small.", "B"),
    ("The answer is B, I think.", "B"),
    ("The answer is B, not A.", "B"),
    ("The answer is B rather than C.", "B"),
    ("The correct answer is B. If it had asked for the smallest, the answer would be A.", "B"),
    ("The answer is B. Many students think option A is correct.", "B"),
    ("\\boxed{B}\n\nWhy not A: it ignores the sign.", "B"),
    ("\\boxed{B}. Some would say the answer is C.", "B"),
    ("The best option is B. Another option is C, which fails.", "B"),
    # Ruled out before the answer.
    ("I rule out choice A and choice B.\n\nC", "C"),
    ("A is too small, so not A.\nAnswer: D", "D"),
    ("The answer is not A. The answer is C.", "C"),
    ("Since A is not possible, the answer is D.", "D"),
    ("If the answer is A, then x = 3, a contradiction. So the answer is C.", "C"),
    ("The answer cannot be A.\n\n(C)", "C"),
    ("Option A is wrong. Option B is wrong. Option C is correct.", "C"),
    ("It's not A so the answer is B", "B"),
    # Corrected: the last final statement counts.
    ("Answer: A\nWait, I misread.\nAnswer: B", "B"),
    ("The answer is A. No: the answer is C.", "C"),
    ("\\boxed{A}. Wait, that is the radius. \\boxed{C}", "C"),
    ("\\boxed{A}\nHmm, no. The correct answer is D.", "D"),
    ("The answer is B.\n\nC", "C"),
    # Hedges.
    ("The answer is probably B.", "B"),
    ("The answer is most likely (E).", "E"),
    ("I think the answer is D", "D"),
    ("I'd go with option H.", "H"),
    ("I choose G because it is the only base.", "G"),
    ("The answer could be A.", None),
    ("The answer is B or maybe C.", None),
    ("The answer is either A or D.", None),
    ("The answer is both A and C.", None),
    ("Answer: A, C", None),
    ("Answer: A; C", None),
    ("Answer: B/C", None),
    ("Answer: B & C", None),
    ("Is the answer A? No.", None),
    ("Is it that it must be B if x?", None),
    ("The answer is B. Right?", "B"),
    ("I don't think the answer is A.", None),
    ("One might say the answer is A.", None),
    ("(A) is wrong.", None),
    ("I eliminate (A) here.", None),
    # Words and terms that are one letter.
    ("Answer: I don't know", None),
    ("Answer: I do not know", None),
    ("Answer: I’m not sure", None),
    ("The answer is I think unclear", None),
    ("Answer: A dog", None),
    ("The answer is a dog", None),
    ("The answer is A because the rest fail.", "A"),
    ("Answer: I", "I"),
    ("Answer: I.", "I"),
    ("The answer is I, since neither holds.", "I"),
    ("Answer: I) None of the above", "I"),
    ("The answer is B-cells.", None),
    ("The answer is C++", None),
    ("The answer is F = ma", None),
    ("Vitamin C is the answer", None),
    ("Statement A is correct and statement B is wrong.", None),
    ("Answer: None of the above", None),
    # Marks of all kinds.
    ("**Answer: J**", "J"),
    ("### Answer\n\n**B**", "B"),
    ("**Final Answer**: (C)", "C"),
    ("__Answer:__ D", "D"),
    ("The answer is $\\boxed{\\text{B}}$.", "B"),
    ("The answer is $\\text{B}$.", "B"),
    ("The answer is \\(\\mathrm{D}\\).", "D"),
    ("\\boxed{\\textbf{(E)}}", "E"),
    ("\\boxed{The answer is B}", "B"),
    ("\\boxed{f}", "F"),
    ("\\boxed {C}", "C"),
    ("\\boxed{A or B}", None),
    ("\\boxed{Paris}", None),
    ("So \\boxed{B", None),
    ("\\boxed{A} and then \\boxed{B", None),
    ("<answer>B</answer>", "B"),
    ("answer: c", "C"),
    ("the correct answer is (c), since it is the only acid.", "C"),
    ('The answer is "B".', "B"),
    ("Answer: `B`", "B"),
    ("Answer:\nB. Paris", "B"),
    ("The correct answer is:\n\n(B) Paris", "B"),
    ("(b)", "B"),
    ("b) Paris", "B"),
    ("Therefore, B", "B"),
    ("B is the correct answer.", "B"),
    ("(D) is correct.", "D"),
    ("Thus C is the best choice.", "C"),
    ("Final answer B.", "B"),
    ("The correct answer choice is E", "E"),
    # The options quoted.
    ("A. Rome\nB. Paris\nC. Bonn\nD. Oslo\n\nAnswer: B", "B"),
    ("(A) Rome (B) Paris (C) Bonn\nThe answer is (C) Bonn.", "C"),
    ("A. Rome\nB. Paris\nC. Bonn\nD. Oslo", None),
    ("Option: A) Rome\nOption: B) Paris", None),
    ("(A) (B) (C) (D) (E) (F) (G) (H) (I) (J)", None),
    # Other languages, full-width forms.
    ("Die richtige Antwort ist B.", "B"),
    ("La respuesta correcta es C.", "C"),
    ("La bonne réponse est (D).", "D"),
    ("La risposta corretta è A.", "A"),
    ("A resposta é E.", "E"),
    ("答案是B。", "B"),
    ("答案：Ｃ", "C"),
    ("答案不是A。", None),
    ("正解はDです。", "D"),
    ("答えは (B) です", "B"),
    ("Bは違います。答えはBではありません。", None),
    ("정답은 C입니다.", "C"),
    ("Правильный ответ: B", "B"),
    ("الإجابة هي (D)", "D"),
    ("คำตอบคือ E", "E"),
    ("Ⓑ", "B"),
    # Nothing.
    ("", None),
    ("Paris", None),
    ("I would need more information.", None),
    ("A lot of things matter here.", None),
]


@pytest.mark.parametrize(("text", "letter"), ENDINGS)
def test_an_ending_holds_this_choice(text: str, letter: str | None) -> None:
    assert extract_choice(text, TEN)[0] == letter
    verdicts = {gold: check("choice", text, gold, num_choices=10) for gold in TEN}
    assert [gold for gold, v in verdicts.items() if v.value == 1.0] == ([letter] if letter else [])
    assert {v.status for v in verdicts.values()} == {"ok" if letter else "wrong_format"}


def test_the_last_final_statement_is_the_only_one_that_counts() -> None:
    """Naming every option in turn gains nothing: each reply is right for one reference at most."""
    everything = "\n".join(f"The answer is {letter}." for letter in TEN)
    right = [g for g in TEN if check("choice", everything, g, num_choices=10).value == 1.0]
    assert right == ["J"]


@pytest.mark.parametrize("text", [t for t, _ in ENDINGS if "answer is" in t.lower()])
def test_mmlu_pro_s_rule_agrees_where_it_finds_one_letter(text: str) -> None:
    """Its regex takes any letter after "answer is"; where ours reads another, that is intended."""
    found = set(re.findall(r"answer is \(?([ABCDEFGHIJ])\)?", text))
    ours = extract_choice(text, TEN)[0]
    intended = {
        # It reads words and terms, letters that are denied, supposed or listed, and only the first.
        "The answer is B or maybe C.", "The answer is I think unclear", "The answer is B-cells.",
        "The answer is C++", "The answer is F = ma", "I don't think the answer is A.",
        "Is the answer A? No.", "One might say the answer is A.", "The answer is B.\n\nC",
    }  # fmt: skip
    if len(found) == 1 and text not in intended and "boxed" not in text:
        assert {ours} == found


def test_mmlu_pro_s_rule_in_its_other_languages() -> None:
    """Every language's own sentence, from the installed task files, read by its rule and by ours."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu_prox"
    rules = {
        found[1]
        for file in folder.glob("*/_*_template_yaml")
        if (found := re.search(r"regex_pattern: '(.*)'", file.read_text(encoding="utf-8")))
    }
    unread = []
    for rule in sorted(rules):
        for form in ("(B)", "B"):
            text = rule.replace("\\(?([ABCDEFGHIJ])\\)?", form).replace("\\", "")
            if "{" not in rule and re.search(rule, text) and extract_choice(text, TEN)[0] != "B":
                unread.append(text)
    assert len(rules) >= 25
    assert unread == []


@pytest.mark.parametrize(
    "unit", [" ", "*", "(", "\n", "answer ", "answer is ", "\\boxed{", "(A) ", "**"]
)
def test_a_long_reply_costs_no_more_than_its_length(unit: str) -> None:
    started = time.process_time()
    for text in (unit * 40_000, "The answer is" + unit * 40_000 + "B"):
        extract_choice(text, TEN)
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("I would say B.", "B"),
        ("This matches choice C", "C"),
        ("This does not match choice A. This matches choice C.", "C"),
        ("A) no\nB) yes\nSo it must be B.", "B"),
        ("B is correct because A is wrong.", "B"),
        ("\\boxed{B, 12}", "B"),
        ('{"answer": "B"}', "B"),
        ("Answer: A B C D", None),
        ("\\boxed{A, B}", None),
        ("I would not say B", None),
        ("It cannot be that it must be A", None),
        ("I would say A good answer needs care.", None),
    ],
)
def test_ordinary_words_for_a_choice(text: str, letter: str | None) -> None:
    assert extract_choice(text, "ABCD")[0] == letter
