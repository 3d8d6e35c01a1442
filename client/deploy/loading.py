"""From ``platform.yaml`` to a platform agent: data read and cleaned, keys and pins loaded, books opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from logging import getLogger
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.agent import PlatformAgent
from client.contributions.run_file import TOWERS_FILE, VOCABULARY_FILE, RunFile
from client.data import cleaning
from client.data.dataset import PlatformData, UserItemMatrix
from client.data.describe import describe_items
from client.data.independence import check_users_independent, withheld_by_user
from client.data.reading.exclusions import read_exclusions
from client.data.recorded import NO_EVENTS, EventRules, RecordedEvents
from client.data.report import CleaningReport
from client.data.split import EvaluationSlice
from client.data.training import TrainingData, shared_items
from client.keys import KeyFolder
from client.personalization.model_builder import FINISH_FILE, ModelBuilder
from client.personalization.store import PlatformStore
from client.privacy.declared_users import check_declared_users, tell_of_declaration
from client.privacy.outbox import Outbox
from client.privacy.secure_sum.member import SecureMember
from client.recommend.feedback_file import FEEDBACK_LOG, read_events
from client.sharding.platform import make_engine, sampled_platform_data
from client.steering.hidden import HiddenItems
from client.text.cache import CACHE_FOLDER, VectorCache
from client.text.encoder import TextEncoder
from client.text.registry import load_encoder
from client.text.vectors import text_vectors
from client.training.engine import Engine, LocalEngine
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Pins
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, CrossfedError, DataError, SecureSumError, StoreError
from common.files import make_folder
from common.privacy.lifetime import budget_policy, run_cost, runs_paid

_log = getLogger(__name__)


def load_platform_data(config: PlatformConfig) -> PlatformData:
    """Read and clean a platform's data: its files, and what users did since, as if that stood at the file's end.

    Who was erased or has objected is left out, whatever the files hold. Where users are in shards, a sample of them is
    loaded, with the report of all.

    Raises:
        ConfigError: the cleaning rules do not go with user-level privacy.
        DataError: a file cannot be used.
    """
    check_privacy_of_data(config)
    excluded = read_exclusions(config.state / "store")
    if config.training.engine == "ray":
        data = sampled_platform_data(config, excluded)
    else:
        data = cleaning.load_platform_data(
            config.data,
            platform=config.name,
            described=config.catalogue.described_columns,
            recorded=recorded_events(config),
            excluded=excluded,
        )
    items, notes = describe_items(data.items, config.catalogue.describe)
    return replace(data, items=items, report=data.report.with_notes(f"items file: {note}" for note in notes))


def load_training_data(config: PlatformConfig) -> TrainingData:
    """Read, clean and split a platform's data; what cleaning dropped is in the operator's log.

    Raises:
        ConfigError: the cleaning rules do not go with user-level privacy.
        DataError: a file cannot be used.
    """
    data = load_platform_data(config)
    log_report(data.report)
    train, validation = hold_out(data.interactions, data.user_ids, config)
    if train.nnz == 0:
        raise DataError(f"{config.data.interactions.path}: no interaction is left to train on")
    return TrainingData(
        user_ids=data.user_ids,
        items=data.items,
        train=train,
        validation=validation,
        shared=shared_items(data.items, config.catalogue, HiddenItems(config.state / "store").current()),
        cards_shared=config.catalogue.cards,
        users=data.users,
        timed=data.report.timed,
    )


def look_at_data(config_path: Path) -> str:
    """Return what reading and cleaning a platform's data gives, or why it cannot be used yet: for who sets a platform up."""
    try:
        return load_platform_data(load_yaml_model(config_path, PlatformConfig)).report.render()
    except CrossfedError as error:
        return f"the data cannot be used yet: {error}"


def log_report(report: CleaningReport) -> None:
    """Put what cleaning dropped, and why, into the operator's log. It stays on this host."""
    for line in report.lines():
        _log.info("%s", line)
    if report.warning is not None:
        _log.warning("%s: %s", report.source, report.warning)


def make_agent(config: PlatformConfig, data: TrainingData, builder: ModelBuilder | None = None) -> PlatformAgent:
    """The agent of a deployed platform.

    Args:
        config: the platform's.
        data: what was read of it.
        builder: builds its own models; one for all agents of a process, so that they are built one after another.

    Raises:
        ConfigError: a key, the federation secret, a pin, the plan's text encoder or the cluster is missing.
        PrivacyError: this platform declares too few or too many users to contribute.
        LedgerError: the books are damaged, or kept under another budget.
    """
    texts = text_vectors(text_encoder(config), text_cache(config))
    engine: Engine = make_engine(config, data) if config.training.engine == "ray" else LocalEngine(data)
    if data.shared.any():
        check_declared_users(config.declared_users, config.plan)
        tell_of_declaration(config.declared_users, engine.n_users, config.plan)
    keys = KeyFolder(config.keys)
    make_folder(config.state, mode=0o700)
    for problem in unusable_run_files(config):
        _log.error("%s", problem)
    outbox = Outbox(config.state, budget_policy(config.plan, config.budget), config.plan, config.state / "store")
    _warn_of_little_budget(config, outbox)
    return PlatformAgent(
        config.name,
        config.plan,
        keys.secret(),
        data,
        outbox=outbox,
        store=PlatformStore(config.state / "store", keep=config.serving.keep_versions),
        secure_member=_secure_member(config, keys),
        personalization=config.personalization,
        builder=builder,
        texts=texts,
        engine=engine,
    )


def _warn_of_little_budget(config: PlatformConfig, outbox: Outbox) -> None:
    """Say when no run fits any more, and when this platform's own budget ends before the one that all have agreed to."""
    paid, agreed = runs_paid(config.plan, config.budget), runs_paid(config.plan)
    if paid is None or agreed is None:
        return
    if paid < agreed:
        _log.warning(
            "budget %g pays for %d of the %d runs that plan.privacy pays for: this platform is the first to refuse a run",
            config.budget, paid, agreed,
        )  # fmt: skip
    if outbox.ledger.spend(run_cost(config.plan)).left.runs == 0:
        _log.warning(
            "the lifetime budget pays for no further run of ε %g: this platform serves, and refuses to take part; "
            "`crossfed-client privacy` shows what is spent",
            config.plan.privacy.epsilon,
        )


def text_encoder(config: PlatformConfig) -> TextEncoder | None:
    """The text encoder that the plan names, as it is installed here; None where the plan names none.

    Raises:
        ConfigError: it is not installed, or its weights are others than the platforms agreed on.
    """
    return None if config.plan.text is None else load_encoder(config.plan.text, config.text)


def text_cache(config: PlatformConfig) -> VectorCache:
    """Where vectors of texts are kept from one start to the next; backups leave it out."""
    return VectorCache(config.state / CACHE_FOLDER / "texts.db")


def unusable_run_files(config: PlatformConfig) -> list[str]:
    """Return what cannot be used of the files that a run leaves for its own continuation, each with what is lost and the mend.

    None keeps the agent from starting: it serves, and takes part in the next run, which makes them anew.
    """
    checks = [RunFile(config.state / "store" / name).check for name in (VOCABULARY_FILE, TOWERS_FILE, FINISH_FILE)]
    if config.plan.secure_sum:
        checks.append(SecureMember(config.name, KeyFolder(config.keys).identity(), {}, config.plan, config.state).check)
    problems = []
    for check in checks:
        try:
            check()
        except (StoreError, SecureSumError) as error:
            problems.append(str(error))
    return problems


def check_privacy_of_data(config: PlatformConfig) -> None:
    """Raises: ConfigError when one user's presence could change what is kept of another's history."""
    if config.plan.private:
        check_users_independent(config.data)


def hold_out(
    matrix: UserItemMatrix, user_ids: Sequence[str], config: PlatformConfig
) -> tuple[UserItemMatrix, EvaluationSlice]:
    """Keep a share of some users' entries back to choose models on; nothing is kept for a test."""
    withheld = withheld_of(matrix, user_ids, config)
    train, truth = matrix.select_entries(~withheld), matrix.select_entries(withheld)
    return train, EvaluationSlice(np.flatnonzero(truth.row_lengths), train, truth)


def withheld_of(matrix: UserItemMatrix, user_ids: Sequence[str], config: PlatformConfig) -> NDArray[np.bool_]:
    """Bool ``[nnz]``: which entries are kept back; each user's alone decide it."""
    return withheld_by_user(
        matrix,
        user_ids,
        key=f"{config.name} {config.seed}",
        users_share=config.validation_users,
        share=config.validation_share,
        latest=config.validation_entries == "latest",
    )


def recorded_events(config: PlatformConfig) -> RecordedEvents:
    """Events that were recorded since the files were written."""
    path = config.state / "store" / FEEDBACK_LOG
    return read_events(path, EventRules.of(config.data)) if path.exists() else NO_EVENTS


def _secure_member(config: PlatformConfig, keys: KeyFolder) -> SecureMember | None:
    if not config.plan.secure_sum:
        return None
    identity = keys.identity()
    pinned = Pins(config.pins).fingerprints()
    others = (config.plan.platforms or 0) - 1
    if len(pinned.keys() - {config.name}) < others:
        raise ConfigError(
            f"{config.pins}: {len(pinned)} platforms are pinned and the plan has {others} others; exchange registrations, "
            "compare fingerprints, and run crossfed-client pin for each"
        )
    fingerprints = pinned | {config.name: identity.fingerprint}
    return SecureMember(config.name, identity, fingerprints, config.plan, config.state)
