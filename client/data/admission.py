"""Whose rows may be used: not of who was erased or has objected, only with consent where that is asked for, only while recent.

Each rule looks at one person's rows, and at that person's row of the users file, alone: nobody's being left out changes what is
kept of another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import polars as pl

from client.data.reading.columns import identifiers
from client.data.reading.exclusions import Exclusions
from client.data.reading.files import TableFile, open_table
from client.data.reading.marks import is_marked
from client.data.reading.names import USER_NAMES
from client.data.reading.reader import InteractionsFile
from client.data.recorded import FIRST_ROW, EventRules
from common.config.data import DataConfig, MarkConfig
from common.errors import DataError


@dataclass(frozen=True)
class Rule:
    """Why a row is to go; ``asked``: because a setting says so, and not because of a fault."""

    reason: str
    broken: pl.Expr
    asked: bool = False


def rules_of_persons(source: InteractionsFile, config: DataConfig, excluded: Exclusions) -> list[Rule]:
    """The rules of exclusion list, objection, consent and retention, over the frame of ``source`` and recorded events.

    Raises:
        DataError: a column of consent or objection, or of times where ``retention_days`` is set, is not there.
    """
    user = pl.col("user")
    rules = []
    if len(excluded):
        left_out = user.map_batches(
            lambda users: pl.Series(excluded.mask(users.to_list()), dtype=pl.Boolean),
            return_dtype=pl.Boolean,
            is_elementwise=True,
        )
        rules.append(Rule("of a person who was erased or has objected", left_out, asked=True))
    objected = _objected(source.table, source.user_column, config)
    if objected is not None:
        rules.append(Rule("of a person who objects (opt_out)", user.is_in(objected.implode()), asked=True))
    return rules + _rules_of_consent(source, config) + _rules_of_retention(source, config)


def _objected(table: TableFile, column: str, config: DataConfig) -> pl.Series | None:
    """Ids of who objects in either file; one row that says so is enough. None where no file is asked."""
    found = []
    if config.interactions.opt_out is not None:
        found.append(_marked(table, column, config.interactions.opt_out, "interactions.opt_out"))
    if config.users is not None and config.users.opt_out is not None:
        users, ids = _users_file(config)
        found.append(_marked(users, ids, config.users.opt_out, "users.opt_out"))
    return pl.concat(found) if found else None


def _rules_of_consent(source: InteractionsFile, config: DataConfig) -> list[Rule]:
    """A row of the file needs consent of its own; a recorded event that of a row of its person; both that in the users file."""
    rules, user = [], pl.col("user")
    if config.interactions.consent is not None:
        given = _marked(source.table, source.user_column, config.interactions.consent, "interactions.consent")
        of_event = (pl.col("row") >= FIRST_ROW) & ~user.is_in(given.implode())
        of_row = (pl.col("row") < FIRST_ROW) & ~pl.col("consent").fill_null(False)
        rules.append(Rule("without consent (interactions.consent)", of_event | of_row, asked=True))
    if config.users is not None and config.users.consent is not None:
        users, ids = _users_file(config)
        given = _marked(users, ids, config.users.consent, "users.consent", newest=True)
        rules.append(Rule("of a person without consent (users.consent)", ~user.is_in(given.implode()), asked=True))
    return rules


def _rules_of_retention(source: InteractionsFile, config: DataConfig) -> list[Rule]:
    if config.retention_days is None:
        return []
    if source.time_column is None:
        raise DataError(
            f"{source.table.path}: retention_days needs to know when things happened, and there is no such column; set "
            "interactions.time_column"
        )
    oldest = EventRules.of(config).oldest(time.time())
    return [
        Rule(
            f"older than {config.retention_days} days, or without a time (retention_days)",
            pl.col("time").is_null() | (pl.col("time") < oldest),
            asked=True,
        )
    ]


def _users_file(config: DataConfig) -> tuple[TableFile, str]:
    assert config.users is not None
    table = open_table(config.users, config.users.path, "users")
    return table, table.required_column(config.users.id_column, USER_NAMES, setting="users.id_column")


def _marked(table: TableFile, ids: str, mark: MarkConfig, setting: str, *, newest: bool = False) -> pl.Series:
    """Ids with a row that bears the mark; with ``newest``, whose last row bears it, as of several rows the last counts."""
    said = is_marked(table, mark, setting)
    rows = table.frame.select(user=identifiers(ids, table.schema[ids]), said=said, row=pl.col(table.row))
    found = pl.col("said").sort_by("row").last() if newest else pl.col("said").any()
    [users] = table.collect(rows.filter(pl.col("user").is_not_null()).group_by("user").agg(found))
    return users.filter(pl.col("said"))["user"]
