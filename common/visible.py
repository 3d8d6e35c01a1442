"""Characters that a terminal obeys or nobody sees, written out. Imports the standard library alone."""

from __future__ import annotations

import json
import re

# Control characters (C0, C1), lone surrogates, line and paragraph separators, what reverses the direction of writing, and what
# takes no room. Joiners (U+200C, U+200D) stay: Persian, Hindi and emoji are written with them.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)


def visible(text: str, *, lines: bool = False) -> str:
    r"""A text with what a terminal would obey, or nobody would see, written out.

    Args:
        text: of anybody.
        lines: whether line feeds stay.

    >>> visible("Tool\x1b[2J [/b]\nset")
    'Tool\\x1b[2J [/b]\\nset'
    """
    return HIDDEN.sub(
        lambda found: "\n" if lines and found[0] == "\n" else found[0].encode("unicode_escape").decode(), text
    )


def visible_json(content: object) -> str:
    r"""A value as one line of JSON in which the same is written out, by JSON's own escapes: a program reads what was given.

    >>> visible_json({"title": "café \u202e"})
    '{"title": "café \\u202e"}'
    """
    return HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(content, ensure_ascii=False))
