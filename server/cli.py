"""``crossfed-server``: the central aggregator of a federation."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Container
from pathlib import Path
from typing import Annotated

import typer

from common.agreement.federation_roster import FederationRoster, is_roster
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model, parse_model
from common.deploy.cli import run_app, teach
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.deploy.doctor import print_findings
from common.deploy.health import Listener, unanswered
from common.deploy.logs import logged_failure, set_up_logs
from common.deploy.provisioning import Registration, lifetime_note, normal_fingerprint
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError, FederationError
from common.sealed.admin import AdminLog, show_acts
from server.deploy.admission import AdmissionBook
from server.deploy.aggregator import AggregatorProcess, begin_run, control_of, wait_for_end
from server.deploy.backup import back_up, restore
from server.deploy.doctor import examine
from server.deploy.follow import follow
from server.deploy.provisioning import initialise, invite, renew_certificate
from server.deploy.roster import admit_roster, checked_plan
from server.deploy.runs import FINISHED, RunFolder, RunStatus, list_runs
from server.roster_cli import add_commands as add_roster_commands

app = typer.Typer(
    name="crossfed-server",
    help=teach(
        """The central aggregator of a federation.

        It learns shared item parameters from sums that the platforms send, and nothing of any user.

        In order: init, roster, admit, start, run, status; rehearse says what is missing.
        """
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

add_roster_commands(app)
Config = Annotated[Path, typer.Option("--config", "-c", help="federation.yaml", dir_okay=False, exists=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Names = Annotated[list[str] | None, typer.Option("--name", help="A further host name or address for the certificate.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Made when it is not there.")],
    address: Annotated[str, typer.Option(help="HOST:PORT at which platforms reach the aggregator.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    platforms: Annotated[int, typer.Option(min=1, help="How many platforms take part.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="plan.KEY=VALUE, for instance plan.privacy.epsilon=1")
    ] = None,
    port: Annotated[int, typer.Option(help="Flower's own port, on loopback.")] = 9091,
    names: Names = None,
) -> None:
    """Make an authority, a certificate, secrets and a configuration.

    Example: crossfed-server init fed --address films.example.org:9443 --federation films --platforms 4
    """
    plan = plan_from(federation, platforms, settings or [])
    made = initialise(folder, plan, address, superlink_port=port, names=tuple(names or ()))
    say(f"{made.config}: read it, above all the plan: every platform must agree to it word for word")
    if plan.private:
        say(f"plan.privacy: {lifetime_note(plan)} Decide before you invite: every platform agrees to it")
    say(f"{made.authority[1]}: signs certificates; keep a copy off this host")
    say(f"{made.folder / plan.federation}.invitation: send it to all platforms; nothing in it is secret")
    say(
        "there: crossfed-client join INVITATION FOLDER --name NAME; here, with what they send back: crossfed-server roster"
    )


@app.command("invite")
def invite_platform(
    name: Annotated[str, typer.Argument(help="The platform's name.")],
    config: Config,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="NAME.invitation unless given.")] = None,
) -> None:
    """Write a platform's kit: address, authority, plan. It holds nothing secret."""
    if not name:
        raise ConfigError("NAME: is empty; the invitation for all platforms lies beside federation.yaml already")
    path = output or Path(f"{name}.invitation")
    invite(_load(config), name, path)
    say(f"{path}: send it to {name}; there: crossfed-client join {path.name} DIR --interactions FILE --items FILE")


@app.command()
def admit(
    file: Annotated[Path, typer.Argument(help="FEDERATION.roster, or NAME.registration.json from one platform.")],
    config: Config,
    fingerprint: Annotated[
        str | None, typer.Option(help="As the platforms read it out; asked for unless given.")
    ] = None,
) -> None:
    """Let the platforms of a roster take part, or one of them, once the fingerprint is what their operators read out.

    Example: crossfed-server admit fed/films.roster --config fed/federation.yaml
    """
    settings = _load(config)
    if is_roster(file):
        _admit_roster(settings, file, fingerprint)
        return
    registration_file, registration = file, Registration.read(file)
    heard = fingerprint or typer.prompt(f"fingerprint of {registration.name}, as its operator reads it out")
    if normal_fingerprint(heard) != registration.fingerprint:
        raise ConfigError(
            f"{registration_file}: has fingerprint {registration.fingerprint}, not the one given; not admitted"
        )
    AdminLog(settings.state).record("admit", platform=registration.name, fingerprint=registration.fingerprint)
    AdmissionBook(settings.platforms).admit(registration, settings.plan.federation)
    say(f"{registration.name} is admitted; a running aggregator takes it in within seconds")


def _admit_roster(settings: AggregatorConfig, file: Path, fingerprint: str | None) -> None:
    roster = FederationRoster.read(file)
    heard = fingerprint or typer.prompt("fingerprint of the roster, as the platforms read it out")
    roster.compare(heard)
    AdminLog(settings.state).record("admit", platforms=" ".join(roster.names), fingerprint=roster.fingerprint)
    left = admit_roster(settings, roster, heard)
    say(f"{', '.join(roster.names)}: admitted; a running aggregator takes them in within seconds")
    for name in left:
        say(f"{name} is admitted and not in the roster: crossfed-server revoke {name}, if it has left")


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The platform's name.")], config: Config) -> None:
    """Take a platform's admission back; its node is refused from now on."""
    settings = _load(config)
    book = AdmissionBook(settings.platforms)
    if name in book.all():
        AdminLog(settings.state).record("revoke", platform=name)
    entry = book.revoke(name)
    try:
        if entry.node_id is not None:
            AdmissionBook(settings.platforms).bring_in_line(control_of(settings))
    except FederationError:
        say(f"{name} is revoked; the SuperLink does not answer now and is told when it starts")
        return
    say(f"{name} is revoked; in runs under secure summation the others' plan needs another number of platforms")


@app.command("admin-log")
def admin_log(config: Config, as_json: AsJson = False) -> None:
    """Show who admitted, revoked, changed the plan and started runs, and check that no entry was edited or removed.

    Example: crossfed-server admin-log --config fed/federation.yaml
    """
    show_acts(_load(config).state, as_json=as_json)


@app.command()
def renew(config: Config, names: Names = None) -> None:
    """Make a new server certificate from the same authority; restart to use it. Platforms need nothing new."""
    AdminLog(_load(config).state).record("renew")
    say(f"good for {renew_certificate(config, tuple(names or ())):.0f} days; restart crossfed-server start")


@app.command()
def start(
    config: Config, log_format: Annotated[str, typer.Option(help="text, or json: one object a line.")] = "text"
) -> None:
    """Run the aggregator until SIGTERM: SuperLink, fleet proxy, admissions, scheduled runs."""
    file = _load(config).state / "logs" / "aggregator.log"
    set_up_logs("json" if log_format == "json" else "text", file=file)
    with logged_failure():
        AdminLog(_load(config).state).record("start")
        AggregatorProcess(config).run()


@app.command()
def run(
    config: Config,
    resume: Annotated[str | None, typer.Option(help="Go on with this run from its last checkpoint.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Begin after a run that is going on, in place of a refusal.")
    ] = False,
) -> None:
    """Begin a federation run now and follow it. Needs a running crossfed-server start."""
    settings = _load(config)
    if resume is not None:
        _check_resumable(RunFolder(settings.state, resume))
    if wait:
        wait_for_end(settings, say)
    name = begin_run(settings, resume)
    say(f"run {name}")
    if not detach:
        follow(RunFolder(settings.state, name), say)


@app.command()
def status(config: Config, as_json: AsJson = False) -> None:
    """Show the newest run and what each platform answered last."""
    settings = _load(config)
    runs, entries = list_runs(settings.state), AdmissionBook(settings.platforms).all()
    if not runs:
        say_json(None) if as_json else say("no run yet; crossfed-server run begins one")
        return
    newest = without({name for name, entry in entries.items() if entry.revoked}, runs[-1])
    if as_json:
        say_json(dataclasses.asdict(newest))
    else:
        PlainConsole().print(status_table(newest, [name for name, entry in entries.items() if not entry.revoked]))


@app.command()
def history(config: Config, as_json: AsJson = False) -> None:
    """List all runs."""
    runs = list_runs(_load(config).state)
    if as_json:
        say_json([dataclasses.asdict(entry) for entry in runs])
        return
    table = PlainTable("run", "state", "rounds", "objective", "error")
    for entry in runs:
        objective = entry.rounds[-1]["objective"] if entry.rounds else None
        shown = "" if objective is None else f"{objective:.6g}"
        table.add_row(entry.name, entry.state, str(entry.server_round), shown, entry.error or "")
    PlainConsole().print(table)


@app.command()
def doctor(config: Config, as_json: AsJson = False) -> None:
    """Check versions, programs, ports, certificates, clock and disk; exit status 1 if something must be mended."""
    raise typer.Exit(print_findings(examine(config), as_json=as_json))


@app.command()
def console(
    config: Config,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 takes a free one.")] = 0,
) -> None:
    """Show the federation in a browser on this machine: platforms, runs, rounds, who is late, why a run failed; start one.

    It listens on loopback alone and asks for the token that it prints.

    Example: crossfed-server console --config fed/federation.yaml
    """
    from common.deploy.logs import set_up_simple_logs
    from common.web.console.serving import serve_console
    from server.console.places import aggregator_console

    set_up_simple_logs(logging.WARNING)
    serve_console(lambda bound: aggregator_console(config, bound), port)


@app.command()
def health(config: Config) -> None:
    """Say whether a running aggregator listens where it should; exit status 1 if not. For containers and monitoring."""
    settings = _load(config)
    listeners = [Listener("SuperLink", ("127.0.0.1", settings.superlink_port))]
    if settings.proxy.enabled:
        listeners.append(Listener("fleet proxy", (settings.proxy.host, settings.proxy.port)))
    missing = unanswered(listeners)
    for line in missing:
        say(line)
    if missing:
        raise typer.Exit(1)
    say("up")


@app.command()
def backup(
    config: Config,
    output: Annotated[Path, typer.Argument(help="A new file outside of the aggregator's folder; holds its keys.")],
) -> None:
    """Copy the aggregator's folder into one verified file; also while it runs."""
    made = back_up(config, output)
    say(f"{output}: {made.files} files, compared with what is there; keep it as safe as the aggregator itself")
    if made.authority_key:
        say("the authority's private key is in it: whoever has the file can issue certificates of this federation")
    for key, path in made.outside.items():
        say(f"not in it: {key}: {path} lies outside of the folder")
    for link in made.links:
        say(f"not in it: {link} is a symbolic link")


@app.command("restore")
def restore_backup(
    source: Annotated[Path, typer.Argument(help="Made by backup.", exists=True)],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
) -> None:
    """Unpack a backup; what was admitted, revoked or run after it was made is not in it."""
    restored = restore(source, folder)
    AdminLog(_load(restored.config).state).record("restore", made=restored.made)
    say(f"{restored.config}: restored as of {restored.made}; revoke again whom you have revoked since")
    for key, path in restored.outside.items():
        say(f"{key} points outside of the restored folder: {path}; change it in {restored.config.name}")
    for name in restored.cut_off:
        say(f"run {name} was going on when the backup was made; crossfed-server run --resume {name} goes on with it")


def _check_resumable(run: RunFolder) -> None:
    if not run.folder.is_dir():
        raise ConfigError(f"--resume {run.name}: there is no run of that name; crossfed-server history lists them")
    if run.status().state == FINISHED:
        raise ConfigError(f"--resume {run.name}: has finished; leave the option out for a new run")


def plan_from(federation: str, platforms: int, settings: list[str]) -> FederationPlan:
    """The plan of ``init``: defaults, and what ``--set plan.KEY=VALUE`` says.

    Raises:
        ConfigError: a setting is not one of the plan's.
    """
    for setting in settings:
        if not setting.startswith("plan."):
            raise ConfigError(
                f"--set {setting.partition('=')[0]}: only settings of the plan, for instance plan.rounds=3"
            )
    mapping = {"federation": federation, "platforms": platforms, "min_platforms": platforms, "model": "auto"}
    plan = parse_model(mapping, FederationPlan, "init", overrides=[text.removeprefix("plan.") for text in settings])
    return checked_plan(plan, "init")


def without(revoked: Container[str], run: RunStatus) -> RunStatus:
    """A run's status without the answers of platforms that were revoked since."""
    answers = {name: answer for name, answer in run.answers.items() if name not in revoked}
    return dataclasses.replace(run, answers=answers)


def status_table(run: RunStatus, admitted: list[str]) -> PlainTable:
    """One run, a row for each platform."""
    state = run.state if run.error is None else f"{run.state}: {run.error}"
    headings = ("platform", "last answer", "round", "code", "seconds ago")
    table = PlainTable(*headings, title=f"{run.name}, {state}, {run.server_round} rounds")
    for name in sorted({*admitted, *run.answers}):
        answer = run.answers.get(name)
        if answer is None:
            table.add_row(name, "none in this run", "", "", "")
        else:
            ago = f"{time.time() - answer['time']:.0f}"
            table.add_row(name, answer["kind"], str(answer["round"]), answer["code"], ago)
    return table


def _load(path: Path) -> AggregatorConfig:
    return load_yaml_model(path, AggregatorConfig)


def main() -> None:
    """Entry point."""
    run_app(app)
