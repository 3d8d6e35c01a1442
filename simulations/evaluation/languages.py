"""Whether the vectors of a text encoder meet across languages: titles of the same films in two."""

from __future__ import annotations

import numpy as np

from client.text.encoder import TextEncoder
from client.text.vectors import encode_texts

FILMS = (
    ("The Godfather", "教父"), ("Titanic", "泰坦尼克号"), ("The Matrix", "黑客帝国"), ("Spirited Away", "千与千寻"),
    ("Crouching Tiger, Hidden Dragon", "卧虎藏龙"), ("Farewell My Concubine", "霸王别姬"), ("Roman Holiday", "罗马假日"),
    ("Gone with the Wind", "乱世佳人"), ("The Lion King", "狮子王"), ("Schindler's List", "辛德勒的名单"),
    ("Forrest Gump", "阿甘正传"), ("Jurassic Park", "侏罗纪公园"), ("King Kong", "金刚"), ("The Last Emperor", "末代皇帝"),
)  # fmt: skip
"""Films by their English and Chinese titles."""


def languages_meet(encoder: TextEncoder) -> dict[str, float]:
    """Of the films in two languages: cosines of pairs and of others, and how many Chinese titles find their English one."""
    english = encode_texts([one for one, _ in FILMS], encoder).vectors
    chinese = encode_texts([other for _, other in FILMS], encoder).vectors
    cosines = chinese @ english.T
    pairs = np.eye(len(FILMS), dtype=bool)
    return {
        "pairs": float(cosines[pairs].mean()),
        "others": float(cosines[~pairs].mean()),
        "nearest is the pair": float((cosines.argmax(axis=1) == np.arange(len(FILMS))).mean()),
    }
