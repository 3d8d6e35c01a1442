"""Trains the deep model at home, and sends shared variables or a noisy sum of gradients.

TensorFlow is loaded with the first round of the deep model, not before: an agent without one never loads it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.contributions.contributor import Contributor, PlatformContext
from client.contributions.home_training import USERS, HomeTraining
from client.contributions.membership import Membership
from client.contributions.population import Population
from client.contributions.run_file import TOWERS_FILE, RunFile
from client.data.dataset import ItemDescriptions
from client.data.training import TrainingData
from client.towers.stored import TowerModel
from client.towers.texts import TextVectors
from common.config.federation import FederationPlan
from common.contributions.factors import PlainMechanism
from common.contributions.kind import ContributionKind
from common.contributions.run_plan import RunPlan, spends_on_depth
from common.contributions.tower_variables import initial_values, tower_variables
from common.contributions.updates import UpdateMechanism, UpdatePlan, UserGradients
from common.errors import ConfigError, ContractError, DataError, PrivacyError, TrainingError
from common.privacy.accounting import subsampled_epsilon
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest

if TYPE_CHECKING:
    from client.towers.local_training import LocalTrainer
    from client.towers.per_user_gradients import GradientComputer
    from client.towers.two_tower import TwoTower

_log = getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TowerItems:
    """The deep model's items as one platform has them: the vocabulary's m, then those that it shares with nobody.

    Attributes:
        n_shared: m.
        n_items: all of them.
        own: int32 ``[m_own]``: the model's row of each own item.
    """

    n_shared: int
    n_items: int
    own: NDArray[np.int32]

    @classmethod
    def at_home(cls, membership: Membership) -> TowerItems:
        """The own items alone: those that the platform shares first, in the order of their columns."""
        own = np.empty(len(membership.own_positions), dtype=np.int32)
        own[np.argsort(membership.own_positions < 0, kind="stable")] = np.arange(len(own), dtype=np.int32)
        return cls(len(own), len(own), own)

    @classmethod
    def of(cls, membership: Membership) -> TowerItems:
        """Rows for own items that nobody shares come behind the vocabulary, in order of column."""
        own = membership.own_positions.astype(np.int32).copy()
        alone = np.flatnonzero(own < 0)
        n_shared = len(membership.owners)
        own[alone] = n_shared + np.arange(len(alone), dtype=np.int32)
        return cls(n_shared, n_shared + len(alone), own)


class TowerContributor(Protocol):
    """Makes one platform's contributions to the deep model."""

    def update(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """One round's contribution, from the request's shared variables."""

    def model(self, request: AgentRequest, membership: Membership) -> TowerModel | None:
        """The platform's model with the final shared variables, its private ones trained; None without a federated one."""

    def at_home(self, request: AgentRequest, membership: Membership) -> HomeTraining | None:
        """The training of a model that is the platform's alone; None where the federation has one, or there is none."""


class NoTowers:
    """A plan without a deep model: nothing to release, and no request for it passes the contract."""

    def update(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        raise ContractError("this federation has no deep model")

    def model(self, request: AgentRequest, membership: Membership) -> TowerModel | None:
        return None

    def at_home(self, request: AgentRequest, membership: Membership) -> HomeTraining | None:
        return None


class _Trained:
    """Makes a deep model and its trainer on one platform, wherever its variables go.

    Args:
        platform: its name, for its own random numbers.
        plan: public parameters; of them ``towers`` says what is trained.
        data: the platform's.
        progress: where training goes on after a restart.
        texts: the plan's text encoder, or None.
    """

    def __init__(
        self,
        platform: str,
        plan: FederationPlan,
        data: TrainingData,
        progress: RunFile,
        texts: TextVectors | None = None,
    ) -> None:
        self._platform, self._plan, self._data, self._progress = platform, plan, data, progress
        self._texts = texts

    def _made(self, described: ItemDescriptions, items: TowerItems, stream: int) -> tuple[TwoTower, LocalTrainer]:
        """The model over ``items`` and its trainer, whose random numbers are those of ``stream``."""
        from client.towers.local_training import LocalTrainer

        assert self._plan.towers is not None
        model = make_model(self._plan, self._data, described, items, self._texts)
        rng = np.random.default_rng([self._plan.seed, stream, zlib.crc32(self._platform.encode())])
        return model, LocalTrainer(model, self._data.train, items.own, self._plan.towers.training, rng)


class HomeTowers(_Trained, NoTowers):
    """``towers.place: home``: no request for the deep model passes the contract, and none is answered."""

    def at_home(self, request: AgentRequest, membership: Membership) -> HomeTraining | None:
        items = TowerItems.at_home(membership)
        described = membership.vocabulary.select(membership.own_positions[membership.own_positions >= 0])

        def prepare() -> tuple[TwoTower, LocalTrainer]:
            model, trainer = self._made(described, items, 4)
            assert self._plan.towers is not None
            model.load(initial_values(tower_variables(self._plan.towers), items.n_shared, self._plan.seed))
            return model, trainer

        users = Population(self._data.user_ids, self._data.validation.users)
        return HomeTraining(self._plan, request.run_id, prepare, items.own, users, self._progress)


class PlainTowers(_Trained):
    """``mode: none``: local epochs, then the trained variables as they are.

    What stays at home between rounds (private variables, the optimiser's slots, random numbers) is on disk after each: an
    agent that was restarted goes on with the result unchanged.
    """

    def __init__(
        self,
        platform: str,
        plan: FederationPlan,
        data: TrainingData,
        progress: RunFile,
        texts: TextVectors | None = None,
    ) -> None:
        super().__init__(platform, plan, data, progress, texts)
        self._mechanism = PlainMechanism()
        self._users = Population(data.user_ids)
        self._current: tuple[str, TwoTower, LocalTrainer] | None = None

    def update(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        from client.towers.local_training import idle_result, scheduled_rate, trained_arrays

        model, trainer = self.prepared(request.run_id, membership)
        model.load(request.arrays)
        assert self._plan.towers is not None
        tower_round = request.server_round - self._plan.server_rounds
        try:
            result = trainer.train(scheduled_rate(self._plan.towers.training, tower_round))
        except TrainingError as error:
            # Said in what is released, by weights of zero, and not by a code: codes are functions of public facts.
            _log.warning("round %d of the deep model: %s", tower_round, error)
            result = idle_result(model)
        facts, kept = trainer.progress()
        self._progress.save(request.run_id, self._plan, facts | {USERS: self._users.seal}, kept)
        arrays = trained_arrays(model, result, membership.shared_positions)
        return self._mechanism.release("update", request.server_round, arrays)

    def model(self, request: AgentRequest, membership: Membership) -> TowerModel | None:
        model, trainer = self.prepared(request.run_id, membership)
        model.load(request.arrays)
        if model.private:
            try:
                trainer.train_private()
            except TrainingError:
                # The shared part is sound, and worth more than no deep model at all.
                _log.warning("the deep model's private variables stay as they were: their training broke down")
        return TowerModel.of(model, TowerItems.of(membership).own)

    def at_home(self, request: AgentRequest, membership: Membership) -> HomeTraining | None:
        return None

    def prepared(self, run_id: str, membership: Membership) -> tuple[TwoTower, LocalTrainer]:
        """The run's model and its trainer; made at the first call, as far as the run had come.

        Each run has its own, so that a run may begin while the model of the last one is still being built.
        """
        current = self._current
        if current is None or current[0] != run_id:
            model, trainer = self._made(membership.vocabulary, TowerItems.of(membership), 2)
            if (kept := self._progress.load(run_id, self._plan)) is not None:
                facts, arrays = kept
                # An earlier version did not note whose embeddings it kept.
                if USERS not in facts or self._users.sealed(facts[USERS]):
                    trainer.restore(facts, arrays)
                else:
                    _log.warning("the users are others than before: what the deep model keeps of users begins anew")
            self._current = current = run_id, model, trainer
        return current[1:]


class PrivateTowers:
    """``mode: user``: one noisy sum of clipped gradients a round, all at the broadcast weights.

    Private variables stay as they are while shared ones train (soundness: a user's contribution depends on that user, on
    released values and on public randomness alone); they are trained once the shared ones are final.

    Args:
        platform: its name.
        plan: public parameters, from the platform's own configuration.
        data: the platform's.
        progress: of what is private; nothing is kept of noisy sums.
        texts: the plan's text encoder, or None.

    Raises:
        PrivacyError: the plan's rounds cost more than the deep model's part of ε.
        ConfigError: Keras computes with another library than TensorFlow.
    """

    def __init__(
        self,
        platform: str,
        plan: FederationPlan,
        data: TrainingData,
        progress: RunFile,
        texts: TextVectors | None = None,
    ) -> None:
        check_backend()
        if said := spends_on_depth(plan):
            _log.warning("%s", said)
        self._plan, self._data = plan, data
        self._plain = PlainTowers(platform, plan, data, progress, texts)
        self._updates = RunPlan.of(plan).update_plan()
        self._mechanism = UpdateMechanism(self._updates)
        self._computer: tuple[str, GradientComputer] | None = None
        cost = _cost(self._updates)
        if cost > self._updates.epsilon * (1 + 1e-6):
            raise PrivacyError(
                f"plan.towers.privacy: {self._updates.rounds} rounds at noise_multiplier "
                f"{self._updates.noise.noise_multiplier:g} cost ε = {cost:.4g}, more than the deep model's part "
                f"{self._updates.epsilon:.4g}; raise noise_multiplier or take fewer rounds"
            )

    def update(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        layout = RunPlan.of(self._plan).update_layout(len(membership.owners))
        columns = self._data.shared_columns
        if len(columns) == 0:
            return self._mechanism.noise_alone(request.server_round, layout)
        if self._computer is None or self._computer[0] != request.run_id:
            from client.towers.per_user_gradients import GradientComputer

            model, _ = self._plain.prepared(request.run_id, membership)
            assert self._plan.towers is not None
            computer = GradientComputer(
                model, self._data.train.select_items(columns), membership.shared_positions, self._plan.towers.training
            )
            self._computer = request.run_id, computer
        computer = self._computer[1]
        computer.load(request.arrays)
        gradients: partial[Iterator[UserGradients]] = partial(
            computer.gradients, public_seed=[self._plan.seed, request.server_round]
        )
        return self._mechanism.update(
            request.server_round, n_users=self._data.train.n_users, layout=layout, gradients=gradients
        )

    def model(self, request: AgentRequest, membership: Membership) -> TowerModel | None:
        return self._plain.model(request, membership)

    def at_home(self, request: AgentRequest, membership: Membership) -> HomeTraining | None:
        return None


@cache
def _cost(updates: UpdatePlan) -> float:
    """ε of all rounds; the same for every platform of a simulation, and seconds of work."""
    noise = updates.noise
    return subsampled_epsilon(noise.noise_multiplier, updates.sampling_rate, updates.rounds, updates.delta)


def check_backend() -> None:
    """Refuse what cannot give gradients of single users, before any run and not after a charge.

    Raises:
        ConfigError: ``KERAS_BACKEND``, or Keras' own file where that is not set, names another library than TensorFlow.
    """
    backend = os.environ.get("KERAS_BACKEND") or _backend_of_file()
    if backend != "tensorflow":
        raise ConfigError(
            f"KERAS_BACKEND={backend}: gradients of single users, which plan.towers needs under privacy.mode: user, are "
            "TensorFlow's; set KERAS_BACKEND=tensorflow, or agree on towers.place: home"
        )


def _backend_of_file() -> str:
    """The library that ``keras.json`` names, which Keras reads where its documentation says; it is not imported for that."""
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    try:
        return str(json.loads((folder / "keras.json").read_bytes())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def check_profile(users: pl.DataFrame | None, names: Sequence[str]) -> None:
    """Refuse a users file that lacks a column of ``towers.profile``.

    Raises:
        DataError: it does; names the column.
    """
    for name in names:
        if users is None or name not in users.columns:
            raise DataError(f"users file: towers.profile names the column {name!r}, which is not there")


def make_model(
    plan: FederationPlan,
    data: TrainingData,
    described: ItemDescriptions,
    items: TowerItems,
    texts: TextVectors | None = None,
) -> TwoTower:
    """A platform's copy of the deep model over ``items``, the first of which are ``described``."""
    from client.towers.features import ItemFeatures, item_columns, profile_matrix
    from client.towers.two_tower import TwoTower

    assert plan.towers is not None
    features = ItemFeatures.of(
        plan.towers.encoders,
        item_columns(described, data.items, items.own, items.n_items),
        items.n_items,
        texts=texts,
    )
    names = plan.towers.profile
    profile = profile_matrix(data.users, names) if names and data.users is not None else None
    return TwoTower(
        plan.towers,
        features,
        n_shared=items.n_shared,
        n_users=data.train.n_users,
        profile=profile,
        seed=plan.seed,
        device=plan.model.device,
    )


def make_tower_contributor(
    platform: str, plan: FederationPlan, data: TrainingData, progress: RunFile, texts: TextVectors | None = None
) -> TowerContributor:
    """The contributor for the plan's deep model and mode of privacy.

    Raises:
        DataError: the users file lacks a column of ``towers.profile``; said before any run, not after a charge.
    """
    if plan.towers is None:
        return NoTowers()
    check_profile(data.users, plan.towers.profile)
    federated = PrivateTowers if plan.private else PlainTowers
    made = HomeTowers if plan.federated_towers is None else federated
    return made(platform, plan, data, progress, texts)


def tower_contributor(context: PlatformContext) -> TowerContributor:
    """The platform's, which also makes the finished model."""
    progress = RunFile(context.folder / TOWERS_FILE)
    return make_tower_contributor(context.platform, context.plan, context.data, progress, context.texts)


class UpdateContributor(Contributor):
    """The platform's half of ``update``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        self._towers = context.once(tower_contributor)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._towers.update(request, membership)
