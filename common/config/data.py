"""Where a platform's data lies, what its columns are called, and how it is cleaned."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from common.config.base import FrozenModel
from common.config.loader import ConfigPath


def _plain_character(text: str) -> str:
    if not text.isascii() or not all(character.isprintable() or character == "\t" for character in text):
        raise ValueError("must be ASCII characters that are not line ends, or a tab")
    return text


def _quote(text: str) -> str:
    if text != "none" and len(text) != 1:
        raise ValueError("is one character, or none where quotes are characters like any other")
    return text if text == "none" else _plain_character(text)


def _text_encoding(name: str) -> str:
    try:
        "".encode(name)  # refuses what is no encoding of text, such as rot13
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("is no known encoding of text; utf-8, utf-16, latin-1 and cp1252 are the usual ones") from None


Separator = Annotated[str, Field(min_length=1, max_length=8), AfterValidator(_plain_character)]
Quote = Annotated[str, AfterValidator(_quote)]
Encoding = Annotated[str, AfterValidator(_text_encoding)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Namespace = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
FileFormat = Literal["auto", "csv", "tsv", "parquet", "inter"]


class FileConfig(FrozenModel):
    """Holds what interactions, items and users files have in common."""

    format: FileFormat = "auto"
    """inter: RecBole's text files with typed headers. auto goes by the name: .csv, .tsv, .txt (also .gz), .parquet, and
    RecBole's .inter, .item and .user."""
    separator: Separator | None = None
    """Between the fields of a text file, one character or several (``::``). null: what a first line ``sep=;`` says, as Excel
    writes it; comma for csv, tab for tsv and RecBole; where the header has none of these, the one of ``, ; | ::`` and tab
    that it has, and the cleaning report says which."""
    quote: Quote | None = None
    """Around fields that hold a separator. none: quotes are characters like any other; null: ``"`` for csv and tsv, none for
    RecBole and separators of several characters."""
    escape: Literal["double", "backslash"] = "double"
    """How a quote stands in a quoted field: twice (RFC 4180), or with a backslash before it (which is itself doubled)."""
    multiline: bool = False
    """true: quoted fields may hold whole lines that look like rows. Only where the program that wrote the file quotes all text
    properly: else one user's text can take in other users' rows, and user-level privacy refuses it."""
    encoding: Encoding | None = None
    """Of a text file: latin-1, cp1252, utf-16, …; null: what its byte-order mark says, else UTF-8."""
    decimal: Literal[".", ","] = "."
    """What stands before a number's fraction in a text file; with ``","`` 3,5 is three and a half, and so is 3.5."""
    header: bool = True
    """false: the first line is data, and the columns are called column_1, column_2, …"""


class MarkConfig(FrozenModel):
    """A column that says of a row whether it bears a mark. A file without the column is refused."""

    column: str
    """Its name."""
    values: Annotated[tuple[str, ...], Field(min_length=1)]
    """The values that bear it, as text without blanks at the ends, capitals not counting; an empty field bears none."""


class InteractionsConfig(FileConfig):
    """One row per interaction. A column that is not named is guessed from well-known names (user_id, rating, …)."""

    path: ConfigPath
    """The file."""
    user_column: str | None = None
    """Who; null: ``user_id``, ``user``, ``customer`` and the like."""
    item_column: str | None = None
    """What; null: ``item_id``, ``item``, ``movie_id``, ``sku`` and the like."""
    value_column: str | None = None
    """The rating or the event's weight. Where there is one, rows without a finite value are dropped."""
    time_column: str | None = None
    """When it happened; without one, the order of the rows counts."""
    time_format: Literal["auto", "unix", "iso", "order"] = "auto"
    """unix: seconds, milliseconds or microseconds since 1970; iso: ISO 8601, UTC unless it says otherwise; order: a
    number that grows along a user's history; auto: each of them, as the field looks."""
    consent: MarkConfig | None = None
    """Only rows with this mark are read. Recorded feedback has no such column: it counts for persons of whom one row has it."""
    opt_out: MarkConfig | None = None
    """Of a person with a row that bears this mark nothing is read: no row, no recorded feedback."""


class ReductionConfig(FrozenModel):
    """Numeric attributes of the items, reduced to a few components that take their place."""

    components: Annotated[int, Field(ge=1, le=4096)]
    """k: how many."""
    columns: tuple[str, ...] | None = None
    """Attributes to reduce: numbers, vectors, or text with blanks between numbers; null: all that hold numbers."""
    method: Literal["pca", "svd"] = "pca"
    """pca: of standardised columns; svd: truncated, of the numbers as they are, for vectors that have a common scale."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "components"
    """The attribute that holds the components; an encoder of kind ``vector`` and width k reads it."""
    basis: ConfigPath | None = None
    """File of the basis: read where it is there, else fitted on this items file and written. Platforms that share an encoder
    of the components need the same one: the first writes it and hands it on. It tells of the catalogue, not of users."""


class ItemsConfig(FileConfig):
    """The catalogue, one row per item."""

    path: ConfigPath | None = None
    """Without a file the catalogue is made from the interactions."""
    id_column: str | None = None
    """The column that the interactions' item column refers to."""
    key_column: str | None = None
    """The column with the public id that platforms agree on; null: ``<namespace>_id`` if there is one, else the id."""
    namespace: Namespace | None = None
    """Put before each public id: imdb makes imdb:0114709. Without it the values of ``key_column`` must have their
    namespace already; without ``key_column`` either, ids are the platform's own and take its name as namespace."""
    without_key: Literal["private", "drop"] = "private"
    """An item that has no public id gets a key of the platform's own, or is left out."""
    title_column: str | None = None
    """The title, text; null: ``title`` or ``name`` where there is one."""
    genres_column: str | None = None
    """Genres or categories; null: ``genres``, ``category``, ``tags`` and the like where there is one."""
    genre_separator: Annotated[str, Field(min_length=1)] | None = None
    """null: a blank for RecBole's files, | for others."""
    attribute_columns: tuple[str, ...] | None = None
    """Kept for the deep models; null: all other columns."""
    reduction: ReductionConfig | None = None
    """PCA or truncated SVD of numeric attributes, fitted on the items file alone."""

    @model_validator(mode="after")
    def _reduces_a_file(self) -> Self:
        if self.reduction is not None and self.path is None:
            raise ValueError("reduction: needs items.path; without a file there are no attributes")
        return self


class UsersConfig(FileConfig):
    """Profile attributes, one row per user. They never leave the platform."""

    path: ConfigPath
    """The file."""
    id_column: str | None = None
    """The column that the interactions' user column refers to; null: ``user_id`` and the like."""
    attribute_columns: tuple[str, ...] | None = None
    """null: all other columns."""
    consent: MarkConfig | None = None
    """Only persons whose row bears this mark are read at all; who is not in the users file is not. Of several rows of a person
    the last counts."""
    opt_out: MarkConfig | None = None
    """Of a person with a row that bears this mark nothing is read."""


class CleaningConfig(FrozenModel):
    """Rules for rows, then for one user's history at a time, then for counts over all users, in this order."""

    value_range: tuple[float, float] | None = None
    """Lowest and highest value that is believed; rows outside are dropped."""
    duplicates: Literal["last", "first"] = "last"
    """Which of a user's interactions with the same item is kept, by time and then by order in the file."""
    missing_times: Literal["keep", "drop"] = "keep"
    """keep: a row with an empty time counts as older than the user's others. (An unreadable time is always dropped.)"""
    positive_threshold: float | None = None
    """Implicit feedback from ratings: keep those of at least this value (of the duplicates, the kept one decides)."""
    implicit_weights: Literal["one", "value"] = "one"
    """Implicit feedback: every event weighs one, or its value (which must then be positive)."""
    max_history: AtLeastOne | None = None
    """Keep only each user's latest interactions."""
    min_user_interactions: Count = 0
    """Drop users with fewer."""
    min_item_interactions: Count = 0
    """Then drop items with fewer, once. Depends on other users."""
    k_core: AtLeastOne | None = None
    """Then drop users and items with fewer than k until all have k. Depends on other users."""

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        if self.value_range is not None and self.value_range[0] > self.value_range[1]:
            raise ValueError("value_range: the lowest value comes first")
        return self

    def depends_on_other_users(self) -> bool:
        """Whether one user's presence can change what is kept of another's history."""
        return self.min_item_interactions > 0 or self.k_core is not None


class DataConfig(FrozenModel):
    """All of one platform's data."""

    interactions: InteractionsConfig
    """The interactions file."""
    items: ItemsConfig = ItemsConfig()
    """The items file."""
    users: UsersConfig | None = None
    """The users file; null: none."""
    feedback: Literal["implicit", "explicit"] = "implicit"
    """What the values mean: events (whatever is there is liked) or ratings."""
    catalogue: Literal["items_file", "interactions"] | None = None
    """items_file: every item of the file, and no other; interactions: the items that are left after cleaning; null:
    items_file where there is one."""
    cleaning: CleaningConfig = CleaningConfig()
    """What is dropped."""
    retention_days: Annotated[int, Field(ge=1, json_schema_extra={"unit": "days"})] | None = None
    """Interactions and recorded feedback older than so many days, or without a time, are not read; null: no limit. Needs a
    column of times. What is dropped leaves the model with the next training."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.retention_days is not None and self.interactions.time_format == "order":
            raise ValueError(
                "retention_days: needs times; with interactions.time_format: order there are positions only"
            )
        if self.catalogue == "items_file" and self.items.path is None:
            raise ValueError("catalogue: items_file needs items.path")
        if self.feedback == "explicit" and self.cleaning.positive_threshold is not None:
            raise ValueError("cleaning.positive_threshold is for feedback: implicit; explicit keeps all ratings")
        if self.feedback == "explicit" and self.cleaning.implicit_weights != "one":
            raise ValueError("cleaning.implicit_weights is for feedback: implicit")
        return self

    @property
    def catalogue_from_file(self) -> bool:
        """Whether the items file alone says what the catalogue is."""
        return self.items.path is not None and self.catalogue != "interactions"

    def settings_that_depend_on_other_users(self) -> tuple[str, ...]:
        """Key paths of the settings that user-level differential privacy must refuse, empty where there are none.

        With any of them one user's presence changes another user's history or publishes a membership, so that the
        privacy mechanism's sensitivity, which is per user, no longer bounds what one user can change.
        """
        found = []
        if not self.catalogue_from_file:
            found.append("catalogue" if self.items.path is not None else "items.path")
        # Only the program that wrote the file stands for its rows then: a stray quote of one user would swallow another's.
        if self.interactions.multiline:
            found.append("interactions.multiline")
        if self.users is not None and self.users.multiline:
            found.append("users.multiline")
        if self.cleaning.min_item_interactions > 0:
            found.append("cleaning.min_item_interactions")
        if self.cleaning.k_core is not None:
            found.append("cleaning.k_core")
        return tuple(found)


def check_feedback(data: DataConfig, trained: str, at: str = "data") -> None:
    """Refuse data whose values mean another thing than what is trained on them.

    Args:
        data: where the data lies and what its values mean.
        trained: ``plan.model.feedback``.
        at: key path of ``data``, for the message.

    Raises:
        ValueError: ratings would be taken as weights of events, or events as ratings.
    """
    if data.feedback != trained:
        raise ValueError(
            f"{at}.feedback: is {data.feedback} where plan.model.feedback is {trained}; set both alike (implicit feedback "
            "from ratings: feedback: implicit, and cleaning.positive_threshold for those that count)"
        )
