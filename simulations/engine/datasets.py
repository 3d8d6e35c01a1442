"""From a scenario to platforms: each one's training data as an agent gets it, and the test data that no agent sees."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import islice
from logging import getLogger

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.cleaning import load_before_count_filters
from client.data.dataset import ItemTable, PlatformData, UserItemMatrix
from client.data.describe import describe_items
from client.data.filters import fit_count_filters
from client.data.independence import check_users_independent
from client.data.items import select_items
from client.data.report import CleaningReport, Dropped
from client.data.split import (
    EvaluationSlice,
    Split,
    filter_by_training_counts,
    hide_items,
    k_fold,
    leave_last_out,
    random_per_user,
    strong_generalisation,
)
from client.data.training import TrainingData, shared_items
from client.text.registry import load_encoder
from common.config.data import CleaningConfig, InteractionsConfig
from common.config.platform import CatalogueConfig
from common.errors import DataError
from simulations.engine.descriptions import with_descriptions
from simulations.engine.partition import entries_of_platforms, items_of_platforms, persons_of, users_of_platforms
from simulations.engine.persons import People, hide_people
from simulations.scenarios.scenario import Scenario, SplitConfig
from simulations.scenarios.sources import PartitionSource, PassportSource, PlatformSource

_log = getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HiddenItems:
    """Holds what a platform's users did with items that the platform does not have.

    Attributes:
        keys: of the hidden items, one a column.
        interactions: n users × hidden items, with the platform's rows.
    """

    keys: tuple[str, ...]
    interactions: UserItemMatrix


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulatedPlatform:
    """One platform of a simulation.

    Attributes:
        name: unique.
        training: all that its agent gets.
        test: for measuring own items; kept by the simulator.
        hidden: for measuring cross-platform recommendations, or None where nothing is hidden.
        report: what cleaning dropped.
        people: who its users are, and whose history is hidden altogether; None where the scenario has no passports.
    """

    name: str
    training: TrainingData
    test: EvaluationSlice
    hidden: HiddenItems | None
    report: CleaningReport
    people: People | None = None

    @property
    def interactions(self) -> int:
        """Training, validation and test interactions."""
        return self.training.known.nnz + self.test.truth.nnz


def untested_platform(name: str, matrix: UserItemMatrix, items: ItemTable, source: str) -> SimulatedPlatform:
    """A platform that trains on all it has and shares all its items: for benches and audits, which measure otherwise.

    Args:
        name: of the platform.
        matrix: all interactions.
        items: the catalogue.
        source: where the interactions come from, for the report.
    """
    nothing = matrix.select_entries(np.zeros(matrix.nnz, dtype=bool))
    nobody = EvaluationSlice(np.zeros(0, dtype=np.int64), matrix, nothing)
    training = TrainingData(
        user_ids=tuple(str(user) for user in range(matrix.n_users)),
        items=items,
        train=matrix,
        validation=nobody,
        shared=np.ones(len(items), dtype=bool),
    )
    report = CleaningReport(
        source=source, rows_read=matrix.nnz, rows_kept=matrix.nnz, dropped=(), users=matrix.n_users, items=len(items)
    )
    return SimulatedPlatform(name=name, training=training, test=nobody, hidden=None, report=report)


def undescribed_items(keys: tuple[str, ...]) -> ItemTable:
    """A catalogue of which nothing but the keys is known."""
    return ItemTable(keys=keys, titles=keys, genres=((),) * len(keys), attributes=pl.DataFrame())


def make_platforms(scenario: Scenario) -> list[SimulatedPlatform]:
    """Load, clean, cut and split; in order of name.

    Raises:
        ConfigError: what is trained privately depends on data settings that user-level privacy does not cover, or the plan's
            text encoder is not installed.
        DataError: a file cannot be used, or a platform ends up without users or items.
    """
    if scenario.plan.private or scenario.price_at:
        check_private_data(scenario)
    if scenario.plan.text is not None:
        load_encoder(scenario.plan.text, scenario.text)
    if scenario.partition is not None:
        raw = _partitioned(scenario.partition, _rng(scenario, "partition"))
    else:
        raw = _separate(scenario.platforms, _rng(scenario, "hide"))
    if scenario.passport is not None:
        raw = _without_cold_people(raw, scenario)
    platforms = [_split(part, scenario) for part in raw]
    for report in dict.fromkeys(part.data.report for part in raw):
        if report.warning is not None:
            # Commands that end with other tables than a run's show it so; a run prints the whole report.
            for line in report.render().splitlines():
                _log.warning("%s", line)
    return sorted(platforms, key=lambda platform: platform.name)


def check_private_data(scenario: Scenario) -> None:
    """Raises: ConfigError when one user's presence could change what is kept of another's history."""
    for at, data in scenario.data_sections():
        check_users_independent(data, at=at)


@dataclass(frozen=True, eq=False)
class _Part:
    """A platform before splitting."""

    name: str
    data: PlatformData
    catalogue: CatalogueConfig
    cleaning: CleaningConfig
    hidden: HiddenItems | None
    interactions: InteractionsConfig
    people: People | None = None


def _without_cold_people(parts: list[_Part], scenario: Scenario) -> list[_Part]:
    """The parts without the people whose passports are measured, and with who the others are."""
    config = scenario.passport or PassportSource()
    known = [(part.data, persons_of(part.data, part.interactions, config.person_column)) for part in parts]
    found = []
    for part, (data, people) in zip(parts, hide_people(known, config.cold, _rng(scenario, "passport")), strict=True):
        rows = {user: row for row, user in enumerate(part.data.user_ids)}
        kept = np.array([rows[user] for user in data.user_ids], dtype=np.int64)
        hidden = part.hidden
        if hidden is not None:
            hidden = replace(hidden, interactions=hidden.interactions.select_users(kept))
        found.append(replace(part, data=data, people=people, hidden=hidden))
    return found


def _separate(sources: tuple[PlatformSource, ...], rng: np.random.Generator) -> list[_Part]:
    """Platforms with data of their own; from some, a share of what others also have is hidden."""
    loaded = {}
    for index, source in enumerate(sources):
        described = source.catalogue.described_columns
        data = load_before_count_filters(source.data, platform=source.name, described=described)
        items = with_descriptions(data.items, source.descriptions, f"platforms.{index}.descriptions")
        loaded[source.name] = _described(replace(data, items=items), source.catalogue, f"platforms.{index}.catalogue")
    parts = []
    for source in sources:
        data = loaded[source.name]
        elsewhere = {key for name, other in loaded.items() if name != source.name for key in other.items.keys}
        common = np.array([i for i, key in enumerate(data.items.keys) if key in elsewhere], dtype=np.int64)
        chosen = np.sort(rng.permutation(common)[: round(source.hide_shared * len(common))])
        kept = np.setdiff1d(np.arange(len(data.items)), chosen)
        parts.append(_without(source.name, data, source, kept, chosen if source.hide_shared else None))
    return parts


def _described(data: PlatformData, catalogue: CatalogueConfig, at: str) -> PlatformData:
    items, notes = describe_items(data.items, catalogue.describe, f"{at}.describe")
    return replace(data, items=items, report=data.report.with_notes(f"items: {note}" for note in notes))


def _partitioned(source: PartitionSource, rng: np.random.Generator) -> list[_Part]:
    """One data set's users over platforms; each platform has a part of the items."""
    described = source.catalogue.described_columns
    data = load_before_count_filters(source.data, platform="partition", described=described)
    items = with_descriptions(data.items, source.descriptions, "partition.descriptions")
    data = _described(replace(data, items=items), source.catalogue, "partition.catalogue")
    users = users_of_platforms(source, data, rng)
    catalogues = items_of_platforms(source, len(data.items), rng)
    entries = entries_of_platforms(data.interactions, catalogues, rng) if source.same_users else None
    parts = []
    for place, ((name, rows), kept) in enumerate(zip(users.items(), catalogues, strict=True)):
        if entries is not None:
            # The other platform's part of a user's history is no truth for this one, which users may bring by a passport.
            mine = replace(data, interactions=data.interactions.select_entries(entries[place]))
            parts.append(_without(name, mine, source, kept, None))
            continue
        part = replace(
            data,
            user_ids=tuple(data.user_ids[row] for row in rows),
            interactions=data.interactions.select_users(rows),
            users=None if data.users is None else data.users[rows],
        )
        hides = source.common_items < 1 or source.hide_items > 0
        hidden = np.setdiff1d(np.arange(len(data.items)), kept) if hides else None
        parts.append(_without(name, part, source, kept, hidden))
    return parts


def _without(
    name: str,
    data: PlatformData,
    source: PlatformSource | PartitionSource,
    kept: NDArray[np.int64],
    hidden: NDArray[np.int64] | None,
) -> _Part:
    """``data`` with the items ``kept`` alone; what users did with the ``hidden`` ones is set aside."""
    truth = None
    if hidden is not None:
        _, interactions = hide_items(data.interactions, hidden)
        truth = HiddenItems(tuple(data.items.keys[i] for i in hidden), interactions.select_items(hidden))
    visible = replace(data, items=select_items(data.items, kept), interactions=data.interactions.select_items(kept))
    return _Part(name, visible, source.catalogue, source.data.cleaning, truth, source.data.interactions)


def _split(part: _Part, scenario: Scenario) -> SimulatedPlatform:
    rng = _rng(scenario, f"split {part.name}")
    data, split, items = _filtered(part.data, split_matrix(part.data.interactions, scenario.split, rng), part.cleaning)
    if split.train.nnz == 0:
        raise DataError(f"platform {part.name}: no interaction is left to train on; add data or hold less out")
    training = TrainingData(
        user_ids=data.user_ids,
        items=data.items,
        train=split.train,
        validation=split.validation,
        shared=shared_items(data.items, part.catalogue),
        cards_shared=part.catalogue.cards,
        users=data.users,
        timed=data.report.timed,
    )
    return SimulatedPlatform(
        name=part.name,
        training=training,
        test=split.test,
        hidden=part.hidden,
        report=data.report,
        people=None if part.people is None else part.people.select_items(items),
    )


def _filtered(
    data: PlatformData, split: Split, cleaning: CleaningConfig
) -> tuple[PlatformData, Split, NDArray[np.int64]]:
    """Minimum counts and k-core, fitted on training interactions: what is held out decides nothing. And the items kept."""
    filters = fit_count_filters(split.train, cleaning)
    if not filters:
        return data, split, np.arange(len(data.items))
    kept = np.logical_and.reduce([one.items for one in filters])
    items = np.flatnonzero(kept)
    split = filter_by_training_counts(split, cleaning)
    slices = [
        EvaluationSlice(part.users, part.history.select_items(items), part.truth.select_items(items))
        for part in (split.validation, split.test)
    ]
    interactions = data.interactions.select_items(items)
    dropped = Dropped("; ".join(one.reason for one in filters), data.interactions.nnz - interactions.nnz)
    report = data.report.after_filter((dropped,), rows=interactions.nnz, users=data.report.users, items=len(items))
    data = replace(data, items=select_items(data.items, items), interactions=interactions, report=report)
    return data, Split(split.train.select_items(items), *slices), items


def split_matrix(matrix: UserItemMatrix, config: SplitConfig, rng: np.random.Generator) -> Split:
    """Divide one platform's interactions as the scenario says."""
    if config.protocol == "leave-last-out":
        return leave_last_out(matrix, rng=rng, validation_users_share=config.validation_users)
    if config.protocol == "strong-generalisation":
        return strong_generalisation(
            matrix,
            rng=rng,
            validation_users=config.validation_users,
            test_users=config.test_users,
            fold_in_share=1 - config.test_share,
        )
    if config.protocol == "k-fold":
        splits = k_fold(matrix, config.folds, rng, validation_users_share=config.validation_users)
        return next(islice(splits, config.fold, None))
    return random_per_user(
        matrix, rng=rng, test_share=config.test_share, validation_users_share=config.validation_users
    )


def _rng(scenario: Scenario, purpose: str) -> np.random.Generator:
    # Purposes are independent of one another: hiding other items must not change how users are split.
    return np.random.default_rng([scenario.seed, zlib.crc32(purpose.encode())])
