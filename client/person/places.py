"""Where a platform keeps something of a person: one list for the export, the erasure and the check that follows it.

Everything here finds a person by the exclusion list's HMAC and not by the id, so that an erasure that was cut short goes on
without anybody having to give the id again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from client.batch.outputs import ListOutputs
from client.contributions.run_file import TOWERS_FILE
from client.data.reading.columns import identifiers
from client.data.reading.exclusions import ExclusionBook, Exclusions
from client.data.reading.files import TableFile, open_table
from client.data.reading.names import USER_NAMES
from client.data.recorded import EventRules
from client.passport.books import PASSPORTS_FILE, PassportBooks
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackInUseError, FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG, FeedbackEvent, parsed_line, read_log
from client.recommend.quarantine import quarantine_of
from client.sharding.erasing import forget_in_shards, shards_that_hold
from client.versions.experiment import ExperimentFile
from client.versions.outcomes import read_shown, write_shown
from common.deploy.locks import is_held
from common.deploy.roles import PlatformConfig


@dataclass(frozen=True)
class Places:
    """The places of one platform.

    Attributes:
        config: the platform's.
    """

    config: PlatformConfig

    @property
    def store_folder(self) -> Path:
        return self.config.state / "store"

    @property
    def feedback_log(self) -> Path:
        return self.store_folder / FEEDBACK_LOG

    @cached_property
    def book(self) -> ExclusionBook:
        """Who is left out."""
        return ExclusionBook(self.store_folder)

    @property
    def running(self) -> bool:
        """Whether the platform's agent runs now."""
        return is_held(self.config.state / "agent.lock")

    def forget_passports(self) -> None:
        """Delete receipts and contents of passports of whoever is left out."""
        excluded = self.book.current()
        with self.passports() as books:
            for user in self._passport_users(books):
                if user in excluded:
                    books.erase_user(user)

    def forget_versions(self) -> None:
        """Take whoever is left out of every version of the model."""
        PlatformStore(self.store_folder).forget_excluded()

    def forget_shards(self) -> None:
        """Empty the rows of whoever is left out in all shards: copies of files and recorded feedback that crossfed made."""
        forget_in_shards(self.config.training.shards, self.book.current())

    @property
    def lists(self) -> ListOutputs:
        """Files of lists for everybody that were begun."""
        return ListOutputs(self.store_folder)

    def forget_progress(self) -> None:
        """Delete what an ended run has left of its training: rows of numbers, without ids, in the order of users."""
        if not self.running:
            (self.store_folder / TOWERS_FILE).unlink(missing_ok=True)

    def shown_tag(self, user_id: str) -> str:
        """Return the tag that stands for a person in the experiment that is going on, hex; empty where there is none."""
        experiment = ExperimentFile(self.store_folder).current()
        return "" if experiment is None else experiment.tag(user_id).hex()

    def forget_shown(self, tag: str) -> None:
        """Take a person out of who was shown a list in the experiment that is going on."""
        path = ExperimentFile(self.store_folder).shown_path
        entries = read_shown(path)
        kept = [entry for entry in entries if entry[2].hex() != tag]
        if len(kept) < len(entries):
            write_shown(path, kept)

    def forget_feedback(self) -> bool:
        """Take whoever is left out of the log of recorded events; whether that is done.

        A running recommender has the log, sees that the list has changed, and does it within seconds.
        """
        if not self.feedback_log.exists() and not quarantine_of(self.feedback_log).exists():
            return True
        try:
            FeedbackLog(self.feedback_log, EventRules.of(self.config.data), self.book).close()
        except FeedbackInUseError:
            return not self._feedback_holds(self.book.current())
        return True

    def still_held(self) -> list[str]:
        """Where somebody who is left out is still to be found; empty once an erasure is complete."""
        excluded, found = self.book.current(), []
        with self.passports() as books:
            if any(user in excluded for user in self._passport_users(books)):
                found.append(PASSPORTS_FILE)
        store = PlatformStore(self.store_folder)
        found += [
            f"version {version}" for version in store.versions() if excluded.mask(store.stored_ids(version)).any()
        ]
        if self._feedback_holds(excluded):
            found.append(FEEDBACK_LOG)
        found += shards_that_hold(self.config.training.shards, excluded)
        found += self.lists.parts_that_hold(excluded)
        return found

    def files_that_hold(self, tag: str) -> list[str]:
        """The platform's own files in which a person stands: those that crossfed reads, and lists that it wrote for it."""
        excluded = self.book.current()
        this_one = replace(excluded, entries={tag: excluded.entries[tag]} if tag in excluded.entries else {})
        found = self.lists.whole_that_hold(this_one)
        for table, column in self.user_files():
            users = identifiers(column, table.schema[column]).alias("user")
            [ids] = table.collect(table.frame.select(users).unique())
            if any(user is not None and excluded.tag(user) == tag for user in ids["user"]):
                found.append(str(table.path))
        return found

    def user_files(self) -> Iterator[tuple[TableFile, str]]:
        """Each of the platform's files with users, and its column of ids.

        Raises:
            DataError: a file cannot be read.
        """
        data = self.config.data
        table = open_table(data.interactions, data.interactions.path, "interactions")
        yield (
            table,
            table.required_column(data.interactions.user_column, USER_NAMES, setting="interactions.user_column"),
        )
        if data.users is not None:
            table = open_table(data.users, data.users.path, "users")
            yield table, table.required_column(data.users.id_column, USER_NAMES, setting="users.id_column")

    @contextmanager
    def passports(self) -> Iterator[PassportBooks]:
        """The passports' books, closed again."""
        books = PassportBooks(self.config.state)
        try:
            yield books
        finally:
            books.close()

    def _passport_users(self, books: PassportBooks) -> set[str]:
        if not (self.config.state / PASSPORTS_FILE).exists():
            return set()
        return {receipt.user for receipt in books.receipts()}

    def _feedback_holds(self, excluded: Exclusions) -> bool:
        log, aside = self.feedback_log, quarantine_of(self.feedback_log)
        users: list[str] = []
        if log.exists():
            users += (event.user_id for event in read_log(log, EventRules.of(self.config.data)).events)
        if aside.exists():
            users += (event.user_id for event in set_aside_events(aside))
        return bool(excluded.mask(users).any())


def set_aside_events(path: Path) -> Iterator[FeedbackEvent]:
    """The events of a quarantine that can be read."""
    for line in path.read_bytes().splitlines():
        yield from parsed_line(line.partition(b"\t")[2]) or ()


def rows_of(table: TableFile, column: str, user: str) -> list[dict[str, object]]:
    """All rows of one user as a file has them, with their place."""
    ids = identifiers(column, table.schema[column])
    [rows] = table.collect(table.frame.filter(ids == pl.lit(user)))
    return rows.rename({table.row: "row"} if table.row != "row" else {}).to_dicts()
