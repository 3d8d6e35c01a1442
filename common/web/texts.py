"""Looks up what pages say, in English and Chinese: one file beside each package's templates, every text with both languages.

A file is YAML: ``key: {en: …, zh: …}``. ``{name}`` in a text is filled in when it is shown; both languages name the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final, Literal

import yaml

from common.errors import ConfigError

Language = Literal["en", "zh"]
LANGUAGES: Final[Mapping[Language, str]] = {"en": "English", "zh": "中文"}
"""By code, each by its own name."""


class Texts:
    """All texts of some packages.

    Args:
        packages: dotted names of packages with a ``texts.yaml``; no two have the same key.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._texts: dict[str, dict[str, str]] = {}
        for package in packages:
            content = (files(package) / "texts.yaml").read_text(encoding="utf-8")
            self._texts |= yaml.safe_load(content)

    @property
    def all(self) -> Mapping[str, Mapping[str, str]]:
        """By key, by language."""
        return self._texts

    def say(self, language: Language, key: str, **values: Any) -> str:
        """One text with its values filled in; KeyError where there is none."""
        return self._texts[key][language].format(**values)

    def known(self, language: Language, prefix: str, word: str) -> str:
        """The text ``PREFIX_WORD`` where there is one, else the word itself: for names that code may add to."""
        found = self._texts.get(f"{prefix}_{word}")
        return word if found is None else found[language]


def language_of(name: str) -> Language:
    """A language by its code.

    Raises:
        ConfigError: there is none of that code.
    """
    for code in LANGUAGES:
        if code == name:
            return code
    raise ConfigError(f"--language {name}: there are {', '.join(LANGUAGES)}")


def accepted_language(header: str) -> Language:
    """The first of a browser's ``Accept-Language`` that there is, else English.

    >>> accepted_language("fr, zh-CN;q=0.8, en;q=0.5")
    'zh'
    """
    for part in header.split(","):
        code = part.partition(";")[0].strip().lower()[:2]
        for language in LANGUAGES:
            if code == language:
                return language
    return "en"
