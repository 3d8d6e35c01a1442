"""Requests that are made to learn of a person: what is answered, and how often, must not depend on who is there.

The aggregator sends parameters that make the solve of one user's system, and no other's, break down (huge, denormal, not a
number, of rank one, of one item alone), asks for what no round was paid for, and asks again. Codes, forms and the number of
answers must be the same with and without the person; a finish must be refused before the last paid round, and may be
answered for one request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.wire.exchange import OK, Arrays
from simulations.audit.audited.files import ITEMS, UNTOUCHED, Person, population
from simulations.audit.audited.platforms import make_identities
from simulations.audit.audited.protocol import ByHand, Transcript
from simulations.audit.path.neighbours import USERS, World, differences, fresh_arrays
from simulations.audit.statistics.checks import Check, exact

Factors = NDArray[np.float32]
_BREAKING = (3e5, 9e5, 8e7, 1e19)


def crafted_parameters(sound: Factors, item: int) -> Mapping[str, Factors]:
    """Item parameters that no honest aggregator sends; ``item`` is the row of an item that few have."""
    at_item = np.arange(len(sound))[:, None] == item
    # Of a direction in which nothing cancels: products with it lose digits, so that a system of rank one plus a small ridge
    # stops being positive definite at a size that depends on whether its user has the item.
    alone = np.where(at_item, np.linspace(-0.3, 1.0, sound.shape[1], dtype=np.float32), np.float32(0))
    return {
        "huge": np.full_like(sound, 3e38),
        "large": sound * np.float32(1e4),
        "denormal": np.full_like(sound, 1e-42),
        "rank-one": np.ones_like(sound),
        "not-a-number": np.where(at_item, np.float32(np.nan), sound),
        "one-item": alone,
        **{f"one-item-times-{size:.0f}": alone * np.float32(size) for size in _BREAKING},
    }


def oracle_checks(
    folder: Path, plan: FederationPlan, person: Person, crafted: Sequence[str] | None = None
) -> list[Check]:
    """Ask with and without ``person`` for a finish that was not paid for, and make the crafted requests.

    Args:
        folder: for the files of both worlds.
        plan: with noise ``per_platform``.
        person: who is there or not.
        crafted: names of :func:`crafted_parameters`; all unless given.
    """
    identities = make_identities(folder / "identities")
    people = population(1, USERS)
    without = World.of(folder / "without", plan, people, identities)
    joined = World.of(folder / "with", plan, [*people[:3], person, *people[3:]], identities)
    fresh = fresh_arrays(_joined(without, "first"), _joined(without, "second"))
    checks: list[Check] = []
    for title, ask in _scripts(plan, crafted):
        found = ask(joined)
        differing = list(differences(ask(without), found, fresh))
        checks.append(exact(f"oracle: {title}", f"{title}: {differing[0]}" if differing else ""))
        checks += [exact(f"order: {title}", problem) for problem in _out_of_order(title, found)]
    return checks


def _scripts(
    plan: FederationPlan, crafted: Sequence[str] | None
) -> Iterator[tuple[str, Callable[[World], Transcript]]]:
    yield "finish without a paid round", _unpaid
    known = crafted_parameters(np.ones((1, plan.row), dtype=np.float32), 0)
    for name in known if crafted is None else crafted:
        yield f"{name} parameters", partial(_crafted, name=name)
        yield f"finish with {name} parameters", partial(_finish, name=name)


def _joined(world: World, run_id: str) -> Transcript:
    run = world.by_hand(run_id)
    run.join()
    return run.transcript


def _unpaid(world: World) -> Transcript:
    run = world.by_hand("unpaid")
    run.join()
    for name, parameters in _all_crafted(run).items():
        _ask_to_finish(run, parameters, f"unpaid finish with {name} parameters")
    run.contribute("counts")
    run.contribute("cooccurrence", arrays={"item_counts": run.item_counts()})
    _ask_to_finish(run, run.parameters(), "unpaid finish after counts")
    for server_round in range(1, world.plan.server_rounds):
        run.contribute("statistics", server_round, arrays=run.parameters(server_round))
        _ask_to_finish(run, run.parameters(), f"unpaid finish after round {server_round}")
    return run.transcript


def _crafted(world: World, name: str) -> Transcript:
    run = world.by_hand(f"crafted-{name}")
    run.join()
    run.contribute("counts")
    run.contribute("cooccurrence", arrays={"item_counts": run.item_counts()})
    parameters = _all_crafted(run)[name]
    run.contribute("statistics", 1, arrays=parameters)
    run.contribute("statistics", 1, arrays=parameters)
    run.contribute("statistics", 2, arrays={**parameters, "item_counts": np.zeros_like(run.item_counts())})
    for tower_round in range(1, 1 + (world.plan.towers is not None)):
        weights = {variable: np.full_like(value, 3e38) for variable, value in run.tower_parameters().items()}
        server_round = world.plan.server_rounds + tower_round
        run.contribute("update", server_round, arrays=weights, config={"tower_round": tower_round})
    return run.transcript


def _finish(world: World, name: str) -> Transcript:
    run = world.by_hand(f"finish-{name}")
    run.join()
    run.gather()
    for attempt in ("first", "again"):
        _ask_to_finish(run, _all_crafted(run)[name], f"{attempt} finish")
    _ask_to_finish(run, run.parameters(), "another finish")
    return run.transcript


def _ask_to_finish(run: ByHand, parameters: Arrays, label: str) -> None:
    run.ask("finish", run.plan.server_rounds, label=label, arrays=run.final(parameters))
    run.wait_built()


def _all_crafted(run: ByHand) -> Mapping[str, Arrays]:
    sound = run.parameters()
    item = int(run.membership.own_positions[ITEMS - UNTOUCHED - 1])
    crafted = crafted_parameters(sound["item_parameters"], item)
    return {name: {**sound, "item_parameters": factors} for name, factors in crafted.items()}


def _out_of_order(title: str, transcript: Transcript) -> Iterator[str]:
    """Yield what a platform should have refused whoever its users are."""
    codes = {answer.label: answer.reply.code for answer in transcript.answers if answer.reply.kind == "finish"}
    unpaid = [label for label, code in codes.items() if label.startswith("unpaid") and code == OK]
    if unpaid:
        yield f"{title}: {len(unpaid)} of {len(codes)} were answered before the last paid round"
    if codes.get("first finish") != codes.get("again finish"):
        yield f"{title}: the identical finish was answered {codes['first finish']}, then {codes['again finish']}"
    if codes.get("first finish") == codes.get("another finish") == OK:
        yield f"{title}: a second finish with other parameters was answered"
