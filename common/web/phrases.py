"""Says in another language what code says in English: reasons of cleaning, and errors that a console shows.

Code has one language, so that logs, commands and tests have one; a page looks up what it is to show. A text is found by its
form: ``{name}`` in a phrase stands for a value, and one that ends with ``_said`` for a text that is looked up itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final

import yaml

from common.web.texts import Language

_VALUE: Final = re.compile(r"\{(\w+)\}")
SAID: Final = "_said"


class Phrases:
    """All phrases of ``phrases.yaml``."""

    def __init__(self) -> None:
        content = (files("common.web") / "phrases.yaml").read_text(encoding="utf-8")
        self.all: list[dict[str, str]] = yaml.safe_load(content)
        # What a text stands in comes before that text; else the most letters win: {file} is missing; {mend} would fit many.
        ordered = sorted(self.all, key=lambda one: (f"{SAID}}}" not in one["en"], -len(_VALUE.sub("", one["en"]))))
        self._forms = [(_form(one["en"]), one) for one in ordered]

    def say(self, language: Language, text: str) -> tuple[str, Language]:
        """The text in a language, and the language that it is in: English where there is no other."""
        if language == "en":
            return text, "en"
        for form, phrase in self._forms:
            if found := form.fullmatch(text):
                values = {
                    name: self.say(language, value)[0] if name.endswith(SAID) else value
                    for name, value in found.groupdict().items()
                }
                return phrase[language].format(**values), language
        return text, "en"


@cache
def phrases() -> Phrases:
    """Read once."""
    return Phrases()


def _form(text: str) -> re.Pattern[str]:
    return re.compile("".join(_parts(text)), re.DOTALL)


def _parts(text: str) -> Iterator[str]:
    end = 0
    for value in _VALUE.finditer(text):
        yield re.escape(text[end : value.start()])
        yield rf"(?P<{value[1]}>.+?)"
        end = value.end()
    yield re.escape(text[end:])
