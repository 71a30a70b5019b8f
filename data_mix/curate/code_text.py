"""A source file as its language, its code and its comments, by Pygments.

The language is told by the file's name alone. Data (JSON, tables) and markup (HTML) are measured by other
limits than code.
"""

import re
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

Form = Literal["code", "data", "html"]
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class ProgrammingLanguage(NamedTuple):
    """A language as Pygments names it, and which limits are meant for it."""

    name: str
    form: Form = "code"


_CODE = {
    "ada": "adb ads", "bash": "bash sh zsh", "batch": "bat cmd", "c": "c h", "clojure": "clj cljs", "cmake": "cmake",
    "common-lisp": "cl lisp", "cpp": "cc cpp cxx hh hpp hxx", "csharp": "cs", "css": "css less scss",
    "cuda": "cu cuh", "cython": "pxd pyx", "d": "d", "dart": "dart", "elixir": "ex exs", "erlang": "erl hrl",
    "fortran": "f f03 f08 f77 f90 f95 for", "fsharp": "fs fsx", "glsl": "comp frag glsl vert", "go": "go",
    "groovy": "gradle groovy", "haskell": "hs", "java": "java", "javascript": "cjs js jsx mjs", "julia": "jl",
    "kotlin": "kt kts", "lua": "lua", "makefile": "mak mk", "matlab": "m", "nasm": "asm s",
    "objective-c": "mm", "ocaml": "ml mli", "pascal": "pas pp", "perl": "pl pm", "php": "php",
    "powershell": "ps1 psm1", "prolog": "pro", "python": "py pyi", "r": "r", "racket": "rkt", "ruby": "rb", "rust": "rs",
    "scala": "sc scala", "scheme": "scm ss", "solidity": "sol", "sql": "sql", "swift": "swift",
    "systemverilog": "sv svh", "tcl": "tcl", "tex": "sty tex", "typescript": "cts mts ts tsx", "vbnet": "vb",
    "verilog": "v", "vhdl": "vhd vhdl", "zig": "zig",
}  # fmt: skip
_DATA = {
    "json": "geojson ipynb json jsonl", "yaml": "yaml yml", "xml": "svg xml xsd xsl", "toml": "toml",
    "csv": "csv tsv", "ini": "cfg conf ini properties",
}  # fmt: skip
_BY_ENDING = {
    **{end: ProgrammingLanguage(name) for name, ends in _CODE.items() for end in ends.split()},
    **{
        end: ProgrammingLanguage(name, "data")
        for name, ends in _DATA.items()
        for end in ends.split()
    },
    **{end: ProgrammingLanguage("html", "html") for end in ("htm", "html", "xhtml")},
}
_BY_NAME = {
    "dockerfile": ProgrammingLanguage("docker"), "makefile": ProgrammingLanguage("makefile"), "gnumakefile": ProgrammingLanguage("makefile"),
    "cmakelists.txt": ProgrammingLanguage("cmake"), "rakefile": ProgrammingLanguage("ruby"), "gemfile": ProgrammingLanguage("ruby"),
}  # fmt: skip
_LOCKED = frozenset(
    [
        "cargo.lock",
        "composer.lock",
        "gemfile.lock",
        "go.sum",
        "npm-shrinkwrap.json",
        "package-lock.json",
        "pipfile.lock",
        "pnpm-lock.yaml",
        "poetry.lock",
        "uv.lock",
        "yarn.lock",
    ]
)


def language_of(path: str) -> ProgrammingLanguage | None:
    """What a file of this name is written in; None where the name does not tell.

    >>> language_of("src/main.RS"), language_of("a/b.json"), language_of("LICENSE")
    (ProgrammingLanguage(name='rust', form='code'), ProgrammingLanguage(name='json', form='data'), None)
    """
    name = PurePosixPath(path).name.lower()
    return _BY_NAME.get(name) or _BY_ENDING.get(name.rpartition(".")[2] if "." in name else "")


def is_lock_file(path: str) -> bool:
    """Whether a package manager writes a file of this name."""
    return PurePosixPath(path).name.lower() in _LOCKED


def languages() -> list[str]:
    """All languages that a file name can tell."""
    return sorted({known.name for known in (*_BY_ENDING.values(), *_BY_NAME.values())})


class SourceText:
    """A file's text in parts; each is made where it is first asked for."""

    def __init__(self, text: str, language: ProgrammingLanguage) -> None:
        self.text, self.language = text, language

    @cached_property
    def lines(self) -> list[str]:
        """All lines, each with its end."""
        return _LINE.findall(self.text)

    @cached_property
    def visible(self) -> str:
        """The text without blanks."""
        return "".join(self.text.split())

    @cached_property
    def _parts(self) -> tuple[str, str]:
        """(code, comments): comments are those of the language, and strings that are documentation."""
        parts: tuple[list[str], list[str]] = ([], [])
        is_comment = _comment_of()
        for kind, piece in _lexer(self.language.name).get_tokens(self.text):
            parts[is_comment(kind)].append(piece)
        return "".join(parts[0]), "".join(parts[1])

    @property
    def code(self) -> str:
        """The text without its comments."""
        return self._parts[0] if self.language.form == "code" else self.text

    @property
    def comments(self) -> str:
        """The comments alone."""
        return self._parts[1] if self.language.form == "code" else ""

    @cached_property
    def code_lines(self) -> list[str]:
        """Lines of code that are not empty."""
        return [line for line in _LINE.findall(self.code) if line.strip()]

    @cached_property
    def comment_lines(self) -> list[str]:
        """Lines of comments that are not empty."""
        return [line for line in _LINE.findall(self.comments) if line.strip()]


@cache
def _lexer(name: str):  # type: ignore[no-untyped-def]
    from pygments.lexers import get_lexer_by_name  # noqa: PLC0415 - only where code is read

    return get_lexer_by_name(name, stripnl=False, ensurenl=False)


@cache
def _comment_of() -> Callable[[object], bool]:
    from pygments.token import Comment, String  # noqa: PLC0415 - as above

    # What a preprocessor reads is code, though Pygments files it under comments.
    code = (Comment.Preproc, Comment.PreprocFile)
    kinds: dict[object, bool] = {}

    def is_comment(kind: object) -> bool:
        if kind not in kinds:
            comment = kind in Comment and not any(kind in one for one in code)
            kinds[kind] = comment or kind in String.Doc
        return kinds[kind]

    return is_comment
