"""The forms in which a reply states its choice: patterns, and the words that take a statement back.

Repetitions are bounded, so that a reply of nothing but blanks or stars costs no more than another.
"""

import re
import unicodedata

_OPEN = r"[\*_`\"'$(\[{<「『【《“‘«]{0,6}"
_CLOSE = r"[\*_`\"'$)\]}>」』】》”’».]{0,6}"
_LETTER = r"(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])(?=(?P<rest>.{0,80}))"
_FLAGS = re.IGNORECASE | re.DOTALL
_FILLER = (
    r"(?:(?:therefore|thus|hence|then|so|clearly|probably|likely|most likely|indeed|definitely|"
    r"simply|actually|just|still|both|either|the|option|choice|letter|answer)\b[\s,:]{1,2}){0,3}"
)
# "Answer: B", "the answer is (B)", "the correct option is therefore **B**", "Answer\n\nB".
_ENGLISH = (
    r"(?<![A-Za-z])(?:answers?(?:\(s\))?(?:\s(?:choice|option|letter))?|(?P<weak>choice|option|letter))(?![A-Za-z])"
    r"[\*_\"']{0,4}(?:\s(?:here|to th(?:is|e) question)\b)?\s{0,2}"
    r"(?P<link>(?:is|would be|should be|must be|has to be|to choose is)\b[\*_]{0,4}\s{0,2}:?"
    r"|[:=]|-(?!-)|[–—]|\n)"
    r"\s{0,3}" + _FILLER
)
# The words of other languages for "answer", and what may stand between one and its letter.
_WORDS = (
    "antwort|lösung|respuesta|réponse|risposta|resposta|antwoord|odpowiedź|odpověď|odpoveď|cevap|"
    "yanıt|jawaban(?:nya)?|svar(?:et)?|jibu|răspuns(?:ul)?|vastaus|odgovor|ответ|відповідь|отговор|"
    "απάντηση|đáp án|câu trả lời|ìdáhùn|impendulo|tontu"
)
_JOINED = (
    "答案|正确选项|正確選項|正解|答え|回答|解答|正答|(?<![不没別别非])选择?|(?<![不沒別])選擇?|"
    "정답|답변|답|คำตอบ|উত্তর|उत्तर|جواب|الجواب|الإجابة|إجابة|پاسخ|సమాధానం|பதில்|válasz"
)
_LATIN_LINKS = (
    "(?:ist|lautet|wäre|es|est|è|é|sarebbe|is|jest|je|ni|er|är|adalah|este|on|là|это|є|είναι|náà ni|"
    r"ithi|bi mooy)(?![^\W_])"
)
_LINKS = "- |:|=|是|为|為|は|が|이|는|은|คือ|হল|হলো|है|आहे|هي|هو|ہے|است|" + _LATIN_LINKS
# Replies are read in this form, which takes some letters of Thai apart.
_WORDS, _JOINED, _LINKS = (unicodedata.normalize("NFKC", w) for w in (_WORDS, _JOINED, _LINKS))
_ADJECTIVE = r"(?:\s(?:correcta|correcte|corretta|correta|juste|esatta|certa|finale?|đúng))?"
_LINK = rf"(?:{_LINKS})[\*_]{{0,4}}\s{{0,2}}"
_FOREIGN = (
    rf"(?:(?<![^\W_])(?:{_WORDS})(?![^\W_]){_ADJECTIVE}[\*_]{{0,4}}\s{{0,2}}"
    rf"(?:{_LINK}|(?=\()){{1,3}}"
    rf"|(?:{_JOINED})[\*_]{{0,4}}\s{{0,2}}(?:{_LINK}){{0,2}})"
)
STATED = (
    re.compile(_ENGLISH + _OPEN + r"\s?" + _LETTER, _FLAGS),
    re.compile(_FOREIGN + _OPEN + r"\s?" + _LETTER, _FLAGS),
    # Without a word between: only as a whole sentence ("Final answer B.").
    re.compile(
        r"(?:^|[\n.!?:]\s?)[\*_#> ]{0,6}(?:so |thus |therefore |hence )?,?\s?"
        r"(?:(?:the|my|correct|final|best) ){0,2}answer "
        + _OPEN
        + r"(?P<letter>[A-Za-z])(?=(?P<rest>"
        + _CLOSE
        + r"(?:\s?\n.{0,40}|\s?$)))",
        _FLAGS,
    ),
    # "I choose (B)", "I'd go with option B".
    re.compile(
        r"\b(?:i|we|i'd|i'll|we'll|let's)\s(?:therefore |would |will |'d )?"
        r"(?:choose|pick|select|say|answer|go with|opt for|settle on)\s"
        + _FILLER
        + _OPEN
        + _LETTER,
        _FLAGS,
    ),
    # "This matches choice C", "it corresponds to option (C)", "so it must be B".
    re.compile(
        r"\b(?:this|that|it|which|result|value)\s(?:must be|has to be|(?:best |exactly )?(?:matches|"
        r"(?:corresponds|agrees|belongs) (?:to|with)|equals)(?: the)?\s(?:answer|option|choice))\s"
        + _OPEN
        + _LETTER,
        _FLAGS,
    ),
    # "B is the correct answer", "option (B) is correct", "**B** is right".
    re.compile(
        r"(?:^|[.,;:!?\n]\s?|\b(?i:so|thus|therefore|hence|that|think|option|choice|answer)\s|(?=[(*]))"
        + _OPEN
        + r"(?P<letter>[A-Z])(?![A-Za-z0-9'’])"
        + _CLOSE
        + r"\sis\s(?:therefore |thus |clearly |indeed |definitely )?the\s"
        r"(?:(?:one |only )?(?:correct|right|best|final|most accurate|most likely)\s)?"
        r"(?:answer|choice|option)\b(?=(?P<rest>.{0,80}))",
        re.DOTALL,
    ),
    re.compile(
        r"(?:\b(?i:option|choice|answer)\s" + _OPEN + r"|\(|\*\*\(?)"
        r"(?P<letter>[A-Z])(?![A-Za-z0-9'’])"
        + _CLOSE
        + r"\sis\s(?:therefore |thus |clearly |indeed |definitely )?(?:correct|right)\b"
        r"(?=(?P<rest>.{0,80}))",
        re.DOTALL,
    ),
    # "B is correct because A is wrong."
    re.compile(
        r"(?:^|[.!?\n]\s?)(?P<letter>[A-Z])\sis\s(?:correct|right)\b"
        r"(?=(?P<rest>,?\s(?:because|since|as)\b.{0,80}))",
        re.DOTALL,
    ),
)
BARE_LINE = re.compile(
    r"^[\s>*_`\"'$#-]{0,12}(?:(?i:option|choice|so|thus|therefore|hence)[,:]?\s+){0,2}"
    r"(?:(?P<letter>[A-Z])|[(\[](?P<marked>[A-Za-z])[)\]]|(?P<small>[a-z])[).]?$)"
    r"[.)\]:*_`\"'$\s]{0,8}$"
)
LABEL_LINE = re.compile(
    r"^[\s>*_`\"'$#-]{0,12}(?:(?i:option|choice)\s+)?"
    r"(?:[(\[](?P<marked>[A-Za-z])[)\]]|(?P<letter>[A-Z])[*_`]{0,4}[.):]|(?P<small>[a-z])\))"
    r"(?P<rest>[.:*_`]{0,4}(?:\s.*)?)$"
)
MARKED = re.compile(r"\((?P<a>[A-Z])\)|\*\*\(?(?P<b>[A-Z])\)?[.:]?\*\*")
LABEL = re.compile(r"\(([A-Z])\)|\b([A-Z])[.):](?=\s|$)")
# What follows a letter where several are listed: "A, B", "A and B", "A/B", "A) or (B".
MORE = re.compile(
    r"^[\s)\]}*_`\"'$.]{0,8}(?:(?P<soft>[,;])\s*(?:(?:and|or)\b)?|\band\b|\bor\b|\band/or\b|"
    r"[/&+|、]|\b(?:und|oder|et|ou|y|o|e)\b)\s*"
    r"(?:(?:option|choice|also|maybe|possibly|perhaps)\s+){0,2}[(\[*_`\"']{0,4}"
    r"(?P<letter>[A-Z])(?![A-Za-z0-9'’])(?P<after>.{0,12})",
    re.DOTALL,
)
# The same with nothing but blanks between: "A B C D".
ROW = re.compile(r"^[)\]*.]{0,3}(?: [(\[*]{0,3}[A-Z][)\]*.]{0,3})+ ?(?:\n|$)")
_VERDICT = (
    r"(?:wrong|incorrect|false|not|n't|out\b|ruled|impossible|eliminat|exclud|unlikely|distractor|"
    r"tempting|cannot|can't)"
)
# "A is wrong", "A? No".
REFUTED = re.compile(
    r"^[\s)\]}*_`\"'$]{0,8}(?:\?|(?:,\s)?(?:is|was|are|isn't|seems?|looks?|cannot|can't|can be|"
    rf"has been|may|might|could|would)\b.{{0,30}}?{_VERDICT}|(?:isn't|cannot|can't)\b"
    r"|[가이은는]?\s?아[니닙]|では(?:ない|あり)|(?:选?项)?是?(?:错|不正确|不对))",
    re.IGNORECASE | re.DOTALL,
)
# A term, not a label: "B-cells", "C++", "F = ma", "A > B".
TERM = re.compile(r"^(?:[-‐‑]\w|[+#°^]|\s?[=<>≤≥≈∝]|\s\+\s)")
# A word that is one letter: what may follow it where it is a label all the same.
WORDS = frozenset("AI")
AFTER_LABEL = re.compile(
    r"^\s+(?:because|since|as|and|or|with|for|by|in|due|which|is|was|given|from|when|where|based|not|"
    r"rather|instead|but|so|here|has|if|that|to|according)\b"
)
# In the clause before a statement these make it none: "if the answer is A", "one might say ...".
NO_STATEMENT = re.compile(
    r"\b(?:if|whether|suppose|supposing|assum\w+|unless|not|never|cannot|might|may|could|tempting|"
    r"mistaken\w*|wrong(?:ly)?|incorrect(?:ly)?|rule|ruled|eliminat\w+|exclud\w+|reject\w*|"
    r"another|other|first|second|third|next|worst)\b|n['’]t\b|"
    r"\b(?:some|many|others|students|people|one)\b.*\b(?:sa[yi]|think|argu|choos|pick|claim|believ|"
    r"guess|conclud)",
    re.IGNORECASE,
)
IF = re.compile(r"\bif\b", re.IGNORECASE)
WEAK_LEAD = re.compile(
    r"\b(?:correct|right|best|final|my|chosen|selected|the)[\s*_]{1,4}$", re.IGNORECASE
)
# After a heading "Answer" the letter stands alone or labels its option.
UNDER_HEADING = re.compile(r"^[)\]}*_`\"'$]{0,6}(?:\s?\n|\s?$|[.):])")
CLAUSE = re.compile(
    r"[.,;:!?\n—]|\b(?:so|but|then|hence|thus|therefore|and|because|since|i think|i believe)\b",
    re.IGNORECASE,
)
RULED_OUT = re.compile(rf"\b(?:no|rule)\b|{_VERDICT}", re.IGNORECASE)
