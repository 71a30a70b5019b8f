"""The five other languages of the world: wordings of sums and of the capitals of countries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """Wordings of one language. {e} expression, {n} name, {a} number, {s} subject, {o} object."""

    code: str
    asks: tuple[str, ...]
    story: tuple[str, str, str, str]  # has, gets, loses, question
    solution: str  # first line of every worked sum; English traces have none
    capital_ask: str
    capital_fact: str
    capitals: dict[str, str]


LANGUAGES: tuple[Wordings, ...] = (
    Wordings(
        "de",
        ("Was ist {e}?", "Berechne {e}.", "Wie viel ergibt {e}?"),
        ("{n} hat {a} Äpfel.", "{n} bekommt {a}.", "{n} verliert {a}.", "Wie viele Äpfel?"),
        "Schritt für Schritt:",
        "Was ist die Hauptstadt von {s}?",
        "Die Hauptstadt von {s} ist {o}.",
        {
            "Frankreich": "Paris", "Deutschland": "Berlin", "Italien": "Rom", "Spanien": "Madrid",
            "Japan": "Tokio", "Norwegen": "Oslo", "Österreich": "Wien", "Griechenland": "Athen",
        },
    ),
    Wordings(
        "es",
        ("¿Cuánto es {e}?", "Calcula {e}.", "¿Qué resulta de {e}?"),
        ("{n} tiene {a} manzanas.", "{n} recibe {a}.", "{n} pierde {a}.", "¿Cuántas manzanas?"),
        "Paso a paso:",
        "¿Cuál es la capital de {s}?",
        "La capital de {s} es {o}.",
        {
            "Francia": "París", "Alemania": "Berlín", "Italia": "Roma", "España": "Madrid",
            "Japón": "Tokio", "Noruega": "Oslo", "Austria": "Viena", "Grecia": "Atenas",
        },
    ),
    Wordings(
        "fr",
        ("Combien font {e} ?", "Calcule {e}.", "Quel est le résultat de {e} ?"),
        ("{n} a {a} pommes.", "{n} reçoit {a}.", "{n} perd {a}.", "Combien de pommes ?"),
        "Étape par étape :",
        "Quelle est la capitale ({s}) ?",
        "La capitale ({s}) est {o}.",
        {
            "France": "Paris", "Allemagne": "Berlin", "Italie": "Rome", "Espagne": "Madrid",
            "Japon": "Tokyo", "Norvège": "Oslo", "Autriche": "Vienne", "Grèce": "Athènes",
        },
    ),
    Wordings(
        "it",
        ("Quanto fa {e}?", "Calcola {e}.", "Qual è il risultato di {e}?"),
        ("{n} ha {a} mele.", "{n} riceve {a}.", "{n} perde {a}.", "Quante mele?"),
        "Passo dopo passo:",
        "Qual è la capitale ({s})?",
        "La capitale ({s}) è {o}.",
        {
            "Francia": "Parigi", "Germania": "Berlino", "Italia": "Roma", "Spagna": "Madrid",
            "Giappone": "Tokyo", "Norvegia": "Oslo", "Austria": "Vienna", "Grecia": "Atene",
        },
    ),
    Wordings(
        "ja",
        ("{e} はいくつですか。", "{e} を計算してください。", "{e} の答えは何ですか。"),
        ("{n} はりんごを {a} 個持っています。", "{a} 個もらいます。", "{a} 個なくします。",
         "りんごは何個ですか。"),
        "順番に計算します。",
        "{s}の首都はどこですか。",
        "{s}の首都は{o}です。",
        {
            "フランス": "パリ", "ドイツ": "ベルリン", "イタリア": "ローマ",
            "スペイン": "マドリード",
            "日本": "東京", "ノルウェー": "オスロ", "オーストリア": "ウィーン",
            "ギリシャ": "アテネ",
        },
    ),
)  # fmt: skip
