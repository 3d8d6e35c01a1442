"""The exact audit of the path as a whole: both placements of noise, every kind of contribution, finish and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from simulations.audit.audited.files import CANARIES, Person, population, saturating
from simulations.audit.audited.plan import audit_plan
from simulations.audit.audited.platforms import audit_folder, make_identities
from simulations.audit.path.neighbours import USERS, NoisePlacement, World, compare_neighbours
from simulations.audit.path.noise import noise_checks
from simulations.audit.path.oracles import oracle_checks
from simulations.audit.statistics.checks import Check


@dataclass(frozen=True, kw_only=True)
class PathReport:
    """Holds what the exact audit found.

    Attributes:
        persons: whose presence was audited.
        taken: by name of release, the largest share of the sensitivity paid for that one person took.
        checks: what the audit concludes from.
    """

    persons: tuple[str, ...]
    taken: dict[str, float]
    checks: tuple[Check, ...]


def audit_path(
    epsilon: float,
    *,
    delta: float = 1e-3,
    deep: bool = True,
    canaries: Mapping[str, Person] = CANARIES,
    crafted: Sequence[str] | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> PathReport:
    """Run platforms from files with and without one person, and compare all that leaves them.

    Args:
        epsilon: of the plan.
        delta: of the plan.
        deep: whether the plan has a deep model.
        canaries: persons by description.
        crafted: names of parameters made to learn of a person (:func:`~simulations.audit.path.oracles.crafted_parameters`); all
            unless given.
        on_stage: told what is being done.
    """
    checks: list[Check] = []
    taken: dict[str, float] = {}
    with audit_folder() as folder:
        for placement in get_args(NoisePlacement):
            plan = audit_plan(epsilon, delta, noise=placement, deep=deep)
            on_stage(f"path with noise {placement}: with and without one person")
            found = compare_neighbours(folder / placement, plan, canaries)
            checks += found.checks
            taken = {kind: max(share, taken.get(kind, 0.0)) for kind, share in found.taken.items()}
            on_stage(f"path with noise {placement}: noise of every entry")
            at = folder / f"noise-{placement}"
            world = World.of(at, plan, population(1, USERS), make_identities(at / "identities"))
            checks += noise_checks(world)
        on_stage("path: requests made to learn of one person")
        plan = audit_plan(epsilon, delta, noise="per_platform", deep=deep)
        checks += oracle_checks(folder / "oracles", plan, saturating(), crafted)
    return PathReport(persons=tuple(canaries), taken=taken, checks=tuple(checks))
