"""The aggregator's part in agreeing with all platforms at once: it puts the roster together, changes the plan, admits.

It is trusted with none of it: a roster that it has changed is refused by the platform whose keys it exchanged, and the others
see another fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.agreement.federation_roster import FederationRoster, plan_differences, replace_plan
from common.agreement.rehearsal import Step
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model, parse_model, parse_text
from common.contributions.run_plan import RunPlan
from common.deploy.provisioning import Registration, plan_section
from common.deploy.roles import AggregatorConfig
from common.deploy.tls import days_left, read_certificate
from common.errors import ConfigError, CrossfedError, FederationError, PrivacyError, SecureSumError
from common.files import write_atomically
from server.deploy.admission import AdmissionBook
from server.deploy.aggregator import control_of
from server.deploy.provisioning import invite_all

_ALL = "each platform"


def roster_path(config_path: Path, plan: FederationPlan) -> Path:
    """Where the roster is written: beside ``federation.yaml``."""
    return config_path.parent / f"{plan.federation}.roster"


def make_roster(config_path: Path, files: Sequence[Path]) -> tuple[FederationRoster, Path]:
    """Write the roster of all who are admitted and of the registrations given, which win; returns it and its file.

    Raises:
        ConfigError: a registration is none, or they do not fit together or the plan.
    """
    config = load_yaml_model(config_path, AggregatorConfig)
    entries = AdmissionBook(config.platforms).all()
    found = {name: entry.registration for name, entry in entries.items() if not entry.revoked}
    for path in files:
        registration = Registration.read(path)
        found[registration.name] = registration
    if not found:
        raise ConfigError(
            "no registration was given, and nobody is admitted yet; name the files that the platforms sent"
        )
    roster = FederationRoster(plan=config.plan, platforms=tuple(found.values()))
    roster.check()
    path = roster_path(config_path, config.plan)
    roster.write(path)
    return roster, path


def admit_roster(config: AggregatorConfig, roster: FederationRoster, heard: str) -> list[str]:
    """Admit all platforms of a roster, once its fingerprint is what they read out; names of those who are not in it.

    Raises:
        ConfigError: the fingerprint is another, the plan is not the aggregator's, or a name is admitted with other keys.
    """
    roster.compare(heard)
    if changes := plan_differences(config.plan, roster.plan):
        raise ConfigError(
            f"the roster is of another plan than this aggregator's: {'; '.join(changes)}; make a new roster"
        )
    book = AdmissionBook(config.platforms)
    for registration in roster.platforms:
        book.admit(registration, config.plan.federation)
    return [name for name, entry in book.all().items() if not entry.revoked and roster.of(name) is None]


def set_plan(config_path: Path, settings: Sequence[str]) -> tuple[FederationPlan, list[str]]:
    """Change the plan in ``federation.yaml`` and the invitation; the plan, and what has changed in it.

    Args:
        config_path: of ``federation.yaml``.
        settings: ``KEY=VALUE`` each, with or without ``plan.`` before it.

    Raises:
        ConfigError: a setting is none of the plan's, or the plan cannot be; nothing is written.
    """
    config = load_yaml_model(config_path, AggregatorConfig)
    mapping = config.plan.model_dump(mode="json", exclude_defaults=True)
    overrides = [setting.removeprefix("plan.") for setting in settings]
    plan = checked_plan(parse_model(mapping, FederationPlan, "plan set", overrides=overrides), "plan set")
    changes = plan_differences(config.plan, plan)
    if changes:
        text = replace_plan(config_path.read_text(encoding="utf-8"), plan_section(plan))
        changed = parse_text(text, AggregatorConfig, config_path)
        write_atomically(config_path, text.encode(), mode=0o640)
        invite_all(changed, config_path.parent)
    return plan, changes


def checked_plan(plan: FederationPlan, command: str) -> FederationPlan:
    """A plan by which something can be trained and somebody is protected.

    Raises:
        ConfigError: it is none.
    """
    run = RunPlan.of(plan)
    try:
        run.check()
    except (PrivacyError, SecureSumError) as error:
        raise ConfigError(f"{command}: {error}") from None
    if plan.private:
        run.release_plan()  # refuses what would protect nobody
    return plan


def steps_left(config_path: Path) -> Iterator[Step]:
    """Every step towards a first run, in order, with who must take it."""
    config = load_yaml_model(config_path, AggregatorConfig)
    me = "the aggregator"
    good = days_left(read_certificate(config.tls.certificate)) > 0
    yield Step("server certificate", good, me, "crossfed-server renew")
    wanted = config.plan.platforms or config.plan.min_platforms
    entries = AdmissionBook(config.platforms).all()
    admitted = sorted(name for name, entry in entries.items() if not entry.revoked)
    roster = _roster(config_path, config)
    known = sorted({*admitted, *(() if roster is None else roster.names)})
    yield Step(
        f"registrations of {wanted} platforms ({', '.join(known) or 'none'})",
        len(known) >= wanted,
        f"{wanted - len(known)} more platforms",
        "crossfed-client join INVITATION FOLDER --name NAME, and send NAME.registration.json",
    )
    current = roster is not None and roster.plan == config.plan and set(admitted) <= set(roster.names)
    yield Step("roster of the plan", current, me, "crossfed-server roster FILES")
    missing = [name for name in (roster.names if roster is not None else ()) if name not in admitted]
    yield Step(
        f"{len(admitted)} of {wanted} admitted",
        len(admitted) >= wanted and not missing,
        me,
        "crossfed-server admit ROSTER",
    )
    yield from _online(config, admitted)


def _online(config: AggregatorConfig, admitted: list[str]) -> Iterator[Step]:
    try:
        online = {node.node_id for node in control_of(config).nodes() if node.status == "online"}
    except FederationError:
        yield Step("the SuperLink answers", False, "the aggregator", "crossfed-server start")
        for name in admitted:
            yield Step(f"{name} is connected", None, name, "crossfed-client start")
        return
    yield Step("the SuperLink answers", True, "the aggregator", "")
    ids = {name: node for node, name in AdmissionBook(config.platforms).names().items()}
    for name in admitted:
        yield Step(
            f"{name} is connected", ids.get(name) in online, name, "crossfed-client rehearse, crossfed-client start"
        )


def _roster(config_path: Path, config: AggregatorConfig) -> FederationRoster | None:
    path = roster_path(config_path, config.plan)
    try:
        return FederationRoster.read(path) if path.exists() else None
    except CrossfedError:
        return None
