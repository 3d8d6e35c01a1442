"""All kinds of contributions, in the order in which a run asks for them. A kind is added here, in one line."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from common.contributions.cooccurrence_kind import CooccurrenceKind
from common.contributions.factor_kinds import CountsKind, StatisticsKind
from common.contributions.kind import ContributionKind
from common.contributions.race_kind import RaceKind
from common.contributions.update_kind import UpdateKind
from common.errors import ContractError

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

KINDS: Final[tuple[ContributionKind, ...]] = (
    CountsKind(),
    CooccurrenceKind(),
    RaceKind(),
    StatisticsKind(),
    UpdateKind(),
)


def all_kinds() -> tuple[ContributionKind, ...]:
    """Every kind that this crossfed knows, in the order of the protocol."""
    return KINDS


def kinds_of(plan: FederationPlan) -> tuple[ContributionKind, ...]:
    """The kinds that runs of ``plan`` have, in order."""
    return tuple(kind for kind in all_kinds() if kind.takes_part(plan))


def kinds_by_wire_name(plan: FederationPlan) -> Mapping[str, ContributionKind]:
    """The same by the names that their messages have under ``plan``."""
    return {kind.wire_name(plan): kind for kind in kinds_of(plan)}


def kind_of_release(released: str) -> ContributionKind:
    """The kind that a ledger's release belongs to. Raises: ContractError for one of no kind."""
    for kind in all_kinds():
        if released in kind.released:
            return kind
    raise ContractError(f"{released!r} is a release of no kind of contribution that this crossfed knows")


def half(path: str, base: type) -> Any:
    """The client or server half of a kind, from the ``module:name`` that its shared half names.

    Raises:
        TypeError: it is no subclass of ``base``.
    """
    found = pkgutil.resolve_name(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(f"{path} is no {base.__name__}")
    return found
