"""Lists what a platform still lacks before it can take part in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from client.deploy.loading import load_platform_data
from client.deploy.sign import signed_roster
from client.keys import KeyFolder, registration_of
from client.privacy.declared_users import check_declared_users
from common.agreement.rehearsal import Step
from common.config.loader import load_yaml_model
from common.deploy.doctor import check_aggregator
from common.deploy.provisioning import Pins
from common.deploy.roles import PlatformConfig
from common.errors import CrossfedError


def steps_left(config_path: Path) -> Iterator[Step]:
    """Every step, in order, with who must take it."""
    config = load_yaml_model(config_path, PlatformConfig)
    me, keys = config.name, KeyFolder(config.keys)
    problem = _problem(lambda: registration_of(me, config.plan.federation, keys, config.supernode.private_key))
    yield Step("keys", problem is None, me, problem or "")
    yield from _agreed(config, config_path)
    yield Step(
        "federation secret",
        _problem(keys.secret) is None,
        _keeper(config_path) or "the roster's first platform, then you",
        "crossfed-client sign ROSTER there, and here with --secrets FILE",
    )
    problem = _problem(lambda: load_platform_data(config))
    yield Step("data can be read", problem is None, me, problem or "")
    problem = _problem(lambda: check_declared_users(config.declared_users, config.plan))
    yield Step("declared_users fits the plan", problem is None, me, problem or "")
    wrong = [finding for finding in check_aggregator(config.aggregator, config.ca) if finding.level == "wrong"]
    yield Step("the aggregator answers", not wrong, "the aggregator", wrong[0].detail if wrong else "")
    yield Step(
        "admitted there", None, "the aggregator", "crossfed-server admit ROSTER; crossfed-server rehearse says so"
    )


def _agreed(config: PlatformConfig, config_path: Path) -> Iterator[Step]:
    """Pins of all others, and the plan that was signed."""
    others = (config.plan.platforms or 1) - 1
    pinned = Pins(config.pins).all().keys() - {config.name}
    roster = signed_roster(config_path)
    yield Step(
        f"{others} other platforms are pinned",
        len(pinned) >= others,
        config.name if roster is not None else "the aggregator sends the roster, then you",
        "crossfed-client sign ROSTER, in one conversation with all others",
    )
    if roster is not None:
        same = roster.plan == config.plan
        yield Step("the plan is the one signed", same, config.name, "put it back, or sign the roster of the new plan")


def _keeper(config_path: Path) -> str | None:
    roster = signed_roster(config_path)
    return None if roster is None else roster.keeper


def _problem(look: Callable[[], object]) -> str | None:
    try:
        look()
    except CrossfedError as error:
        return str(error).splitlines()[0]
    return None
