"""Well-known names of columns, the likeliest first; capitals, blanks, ``_`` and RecBole's types are ignored."""

from __future__ import annotations

import re
from typing import Final

USER_NAMES: Final = (
    "user_id",
    "user",
    "uid",
    "customer_id",
    "customer",
    "reviewer_id",
    "visitor_id",
    "account_id",
    "session_id",
)
ITEM_NAMES: Final = (
    *("item_id", "item", "iid", "movie_id", "product_id", "book_id", "track_id", "song_id", "video_id", "article_id"),
    *("imdb_id", "imdb", "isbn", "gtin", "ean", "asin", "movie", "product", "sku"),
)
VALUE_NAMES: Final = ("rating", "value", "score", "stars", "overall", "weight", "count", "plays")
TIME_NAMES: Final = (
    "timestamp",
    "time",
    "datetime",
    "date",
    "unix_review_time",
    "created_at",
    "event_time",
    "ts",
    "seq",
    "order",
)
TITLE_NAMES: Final = ("title", "movie_title", "item_title", "name", "item_name", "product_name")
GENRE_NAMES: Final = ("genres", "genre", "categories", "category", "class", "tags")


def plain(name: str) -> str:
    """A column's name as names are compared.

    >>> plain("User ID:token")
    'userid'
    """
    return re.sub(r"[\s_.-]", "", name.partition(":")[0]).lower()


_WELL_KNOWN = frozenset(
    map(plain, (*USER_NAMES, *ITEM_NAMES, *VALUE_NAMES, *TIME_NAMES, *TITLE_NAMES, *GENRE_NAMES, "review", "comment"))
)


def is_header(names: tuple[str, ...]) -> bool:
    """Whether a file's first line surely is a header, so that messages may show it: a row holds what users did.

    >>> is_header(("user", "film", "rating")), is_header(("ann", "film", "4")), is_header(("ann@mail.example", "Alien"))
    (True, False, False)
    """
    looks_like_data = any(not name.strip() or "@" in name or re.fullmatch(r"[-+\d.,:/ ]+", name) for name in names)
    well_known = sum(plain(name) in _WELL_KNOWN for name in names)
    return not looks_like_data and well_known >= 2
