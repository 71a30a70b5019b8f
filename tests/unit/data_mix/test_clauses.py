"""Variants of allowed licences that no list has: what may be worded otherwise, and what may not be asked for."""

import pytest

from data_mix.curate.clauses import Clauses
from data_mix.curate.licences import OWN_WORDS, Licences

GRANT = "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following conditions are met:"
SOURCE = "1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following disclaimer."
BINARY = "2. Redistributions in binary form must reproduce the above copyright notice in the documentation and/or other materials provided with the distribution."
NAMES = "3. The name of the author may not be used to endorse or promote products derived from this software without specific prior written permission."
DISCLAIMER = 'THIS SOFTWARE IS PROVIDED BY THE AUTHOR "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY DAMAGES.'
BSD = "\n".join([GRANT, SOURCE, BINARY, NAMES, DISCLAIMER])
KNOWN = Clauses({"BSD": BSD})


@pytest.mark.parametrize(
    "text",
    [
        BSD,
        "\n".join([GRANT, SOURCE, DISCLAIMER]),
        BSD.replace("the above copyright notice, this list", "any existing copyright notice, and this entire permission notice in its entirety, this list"),
        BSD.replace("binary forms,", "binary forms of libsome,"),
        BSD.replace("The name of the author may", "The names of Some Larger Firm of Nowhere, Inc, may"),
        BSD.replace(DISCLAIMER, "It is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY."),
        f"Copyright (c) 1999 A Name. All rights reserved.\n\n{BSD}",
        "\n".join(f" * {line}" for line in BSD.split("\n")),
    ],
)  # fmt: skip
def test_a_variant_asks_for_no_more(text: str) -> None:
    assert KNOWN.make_up(text)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join([SOURCE, BINARY, DISCLAIMER]),  # grants nothing
        BSD.replace("are permitted", "are not permitted"),
        BSD.replace("use in source", "academic use in source"),
        BSD.replace("with or without modification", "without modification, for any purpose but war"),
        BSD.replace(NAMES, "3. All advertising materials must say that this software was made by the author."),
        BSD.replace(NAMES, "3. All copies must include the source code."),
        BSD.replace(NAMES, "3. Give a tenth of what you earn by it."),
        f"{BSD}\n4. The software shall be used for good, and not for evil.",
        f"{BSD}\nWhoever changes it is responsible, and shall put another address in it.",
        f"{BSD}\nBy using it you agree that no warranty is given and that you tell us.",
        BSD.replace("any existing", "").replace("conditions and the following disclaimer", "conditions and all changes"),
        f"{BSD}\nCopyright (c) 1999 A Name, not for commercial use.",
        f"{BSD}\nNo warranty, no military use.",
        f"{BSD}\nAcademic use.",
        f"Copyright 1999 A Firm: academic use.\n\n{BSD}",
        f"{BSD}\nThis free software excludes some.",
        "一切权利保留。" + BSD,
        "",
    ],
)  # fmt: skip
def test_one_condition_more_is_not_known(text: str) -> None:
    assert not KNOWN.make_up(text)


def test_variants_of_licences_off_the_list_are_unknown_and_names_of_copyleft_forbid() -> None:
    texts = {"BSD": BSD, "Evil": BSD.replace("source code", "all you ever wrote with it")}
    variant = "\n".join([GRANT, SOURCE.replace("the above", "any existing"), NAMES, DISCLAIMER])
    allowing, none = Licences(texts, ["BSD"]), Licences(texts)
    (found,) = allowing.of_text(variant)
    assert (found.id, found.allowed(["BSD"])) == (OWN_WORDS, True)
    assert none.of_text(variant) == []
    gnu = allowing.of_text(f"{variant}\nParts are under the GNU General Public License.")
    assert [one.id for one in gnu] == ["copyleft or unknown, by name"]
