"""The commands of ``crossfed-client`` that set a platform up and keep it running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from client.cli.roster import add_commands as add_roster_commands
from client.deploy.agent_process import Part, PlatformProcess, listeners, log_file
from client.deploy.backup import back_up, restore
from client.deploy.doctor import examine
from client.deploy.join import RECOMMENDER_PORT, SUPERNODE_PORT, join_federation
from client.deploy.loading import load_platform_data, look_at_data
from client.deploy.preview import preview_rows, preview_table
from client.keys import KeyFolder
from client.service.tls import issue_recommender_tls
from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, say, say_json
from common.deploy.doctor import print_findings
from common.deploy.health import unanswered
from common.deploy.logs import logged_failure, set_up_logs
from common.deploy.provisioning import Pins, Registration, lifetime_note
from common.deploy.roles import PlatformConfig
from common.deploy.tls import certificate_days
from common.errors import ConfigError
from common.files import write_atomically
from common.sealed.admin import AdminLog

Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
secret = typer.Typer(no_args_is_help=True, help="The federation secret, which the aggregator never has.")


def add_commands(app: typer.Typer) -> None:
    """Put these commands into ``crossfed-client``."""
    add_roster_commands(app)
    for command in (join, start, doctor, health, certificate, preview, pin, unpin, backup):
        app.command()(command)
    app.command("restore")(restore_backup)
    app.add_typer(secret, name="secret")


def join(
    invitation: Annotated[Path, typer.Argument(help="NAME.invitation, from the aggregator.", exists=True)],
    folder: Annotated[Path, typer.Argument(help="The platform's private folder; made when it is not there.")],
    name: Annotated[str | None, typer.Option(help="The platform's, where the invitation is for all platforms.")] = None,
    interactions: Annotated[
        Path | None,
        typer.Option(help="Your interactions: CSV, Parquet or RecBole. Needed the first time.", exists=True),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Your catalogue; needed under user-level privacy.", exists=True)
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Of your items' public ids, for instance imdb.")] = None,
    supernode_port: Annotated[int | None, typer.Option(help=f"On loopback; {SUPERNODE_PORT} unless given.")] = None,
    recommender_port: Annotated[int | None, typer.Option(help=f"On loopback; {RECOMMENDER_PORT} unless given.")] = None,
) -> None:
    """Check an invitation, make this platform's keys and configuration, and a registration to send back.

    A second time it makes what is missing and keeps the rest, platform.yaml included; it says which options had no effect.

    Example: crossfed-client join films.invitation cinema --name cinema --interactions views.csv --items films.csv
    """
    made = join_federation(
        invitation, folder, name=name, interactions=interactions, items=items, namespace=namespace,
        ports=(supernode_port, recommender_port),
    )  # fmt: skip
    if made.kept:
        say(f"{made.config}: was there, and is kept as it is")
    else:
        say(f"{made.config}: read it, above all the plan, and change what is yours to decide")
    for note in made.notes:
        say(f"note: {note}")
    settings = load_yaml_model(made.config, PlatformConfig)
    if settings.plan.private:
        say(f"plan.privacy: {lifetime_note(settings.plan, settings.budget)}")
    say(
        f"{made.registration_file}: send it to the aggregator, which puts all into one roster; then crossfed-client sign"
    )
    say(f"(to be admitted and pinned by itself instead, read out this fingerprint: {made.registration.fingerprint})")
    say(look_at_data(made.config))


def start(
    config: Config,
    part: Annotated[str, typer.Option(help="all; or agent and courier apart, each under a user of its own.")] = "all",
) -> None:
    """Run the platform until SIGTERM: agent, recommender, SuperNode. SIGHUP reloads configuration and data."""
    settings = load_yaml_model(config, PlatformConfig)
    chosen = _part(part)
    set_up_logs(settings.log_format, file=log_file(settings, chosen))
    with logged_failure():
        if chosen != "courier":  # whose user must not see the agent's folder
            AdminLog(settings.state).record("start", part=chosen)
        PlatformProcess(config, chosen).run()


def doctor(
    config: Config,
    as_json: AsJson = False,
    devices: Annotated[bool, typer.Option(help="Start TensorFlow to see its devices.")] = True,
) -> None:
    """Check versions, GPU libraries, keys, ports, data, budget and the aggregator; exit status 1 if one is wrong."""
    raise typer.Exit(print_findings(examine(config, devices=devices), as_json=as_json))


def health(
    config: Config,
    part: Annotated[str, typer.Option(help="As given to start.")] = "all",
) -> None:
    """Say whether a running platform listens where it should; exit status 1 if not. For containers and monitoring."""
    settings, chosen = load_yaml_model(config, PlatformConfig), _part(part)
    missing = unanswered(listeners(settings, chosen))
    for line in missing:
        say(line)
    if missing:
        raise typer.Exit(1)
    say("up")


def certificate(
    config: Config,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="A host name or address that applications use; repeat it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 -- meant for others
) -> None:
    """Make or renew the TLS files that the recommender needs where others can reach it.

    Applications trust tls/applications-ca.pem. A renewed certificate is used without a restart.

    Example: crossfed-client certificate --config cinema/platform.yaml --name recommender.example.org
    """
    made = issue_recommender_tls(config.parent / "tls", names or [])
    say(f"{made.certificate}: good for {certificate_days(made.certificate):.0f} days; run this again to renew it")
    say(
        f"{made.authority}: give it to the applications, which then connect with TLS and the token (--ca on the command line)"
    )
    settings = load_yaml_model(config, PlatformConfig)
    if settings.recommender.certificate is None or settings.recommender.host != host:
        say(f"put into {config.name}, with the port that is there, and restart:\n{made.section(host)}")


def preview(config: Config, as_json: AsJson = False) -> None:
    """Show all that a run would send to the aggregator: names, shapes, bytes, noise. Nothing is sent or charged."""
    settings = load_yaml_model(config, PlatformConfig)
    data = load_platform_data(settings)
    rows = preview_rows(settings, data)
    if as_json:
        say_json(rows)
    else:
        PlainConsole().print(preview_table(rows))
    say(data.report.render(), err=as_json)


def pin(
    registration_file: Annotated[Path, typer.Argument(help="NAME.registration.json of another platform.", exists=True)],
    config: Config,
    fingerprint: Annotated[
        str | None, typer.Option(help="As its operator reads it out to you; asked for unless given.")
    ] = None,
) -> None:
    """Trust another platform's keys, once its fingerprint is what its operator reads out."""
    registration = Registration.read(registration_file)
    heard = fingerprint or typer.prompt(f"fingerprint of {registration.name}, as its operator reads it out")
    settings = load_yaml_model(config, PlatformConfig)
    if registration.name == settings.name or registration.federation != settings.plan.federation:
        raise ConfigError(f"{registration_file}: is this platform's own, or of another federation")
    AdminLog(settings.state).record("pin", platform=registration.name, fingerprint=registration.fingerprint)
    Pins(settings.pins).pin(registration, heard)
    say(f"{registration.name} is pinned; restart to use it")


def unpin(name: Annotated[str, typer.Argument(help="The other platform's name.")], config: Config) -> None:
    """Trust another platform's keys no more."""
    settings = load_yaml_model(config, PlatformConfig)
    pins = Pins(settings.pins)
    if name in pins.all():
        AdminLog(settings.state).record("unpin", platform=name)
    pins.unpin(name)


def backup(
    config: Config,
    output: Annotated[
        Path, typer.Argument(help="A new file outside of the platform's folder; holds all secrets of the platform.")
    ],
) -> None:
    """Copy the platform's folder into one verified file; also while the platform runs."""
    made = back_up(config, output)
    say(f"{output}: {made.files} files, compared with what is there; keep it as safe as the platform itself")
    for key, path in made.outside.items():
        say(f"not in it: {key}: {path} lies outside of the folder")
    for link in made.links:
        say(f"not in it: {link} is a symbolic link")


def restore_backup(
    source: Annotated[Path, typer.Argument(help="Made by backup.", exists=True)],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    as_json: AsJson = False,
) -> None:
    """Unpack a backup; privacy spent after it was made is not known here, so restore the newest."""
    restored = restore(source, folder)
    AdminLog(load_yaml_model(restored.config, PlatformConfig).state).record("restore", made=restored.made)
    elsewhere = {key: str(path) for key, path in restored.outside.items()}
    if as_json:
        content = {"config": str(restored.config), "made": restored.made, "elsewhere": elsewhere}
        say_json(restored.ledger | content | {"notes": restored.notes})
        return
    say(f"{restored.config}: restored" + (f" as of {restored.made}" if restored.made else ""))
    for note in restored.notes:
        say(f"note: {note}")
    ledger = restored.ledger
    say(f"ledger: {ledger['ledger_entries']} entries; counted as spent besides: μ = {ledger.get('lost_mu', 0):.4g}")
    for key, text in elsewhere.items():
        there = "there" if Path(text).exists() else "NOT there"
        say(f"{key} points outside of the restored folder: {text} ({there}); change it in {restored.config.name}")
    say("runs of before do not go on here: their place in the secure sum is in no backup. Begin a new run")


@secret.command("new")
def secret_new(config: Config) -> None:
    """Make the federation secret: on one platform, once."""
    settings = load_yaml_model(config, PlatformConfig)
    AdminLog(settings.state).record("secret new")
    made = KeyFolder(settings.keys).new_secret()
    say(f"fingerprint {made.fingerprint}; hand it on with crossfed-client secret seal")


@secret.command("show")
def secret_show(config: Config) -> None:
    """Show the secret's fingerprint, which must be the same on all platforms; never the secret."""
    say(KeyFolder(load_yaml_model(config, PlatformConfig).keys).secret().fingerprint)


@secret.command("seal")
def secret_seal(
    receiver: Annotated[str, typer.Argument(help="Name of a pinned platform.")],
    config: Config,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="RECEIVER.sealed unless given.")] = None,
) -> None:
    """Encrypt the secret to another platform's key; the file may travel by any way, the aggregator's included."""
    settings = load_yaml_model(config, PlatformConfig)
    pinned = Pins(settings.pins).all()
    if receiver not in pinned:
        raise ConfigError(f"{receiver!r} is not pinned; run crossfed-client pin first")
    path = output or Path(f"{receiver}.sealed")
    write_atomically(path, KeyFolder(settings.keys).seal_secret(own_registration(settings, config), pinned[receiver]))
    say(f"{path}: send it to {receiver}; there: crossfed-client secret import")


@secret.command("import")
def secret_import(
    sealed: Annotated[Path, typer.Argument(help="Made by secret seal on a pinned platform.", exists=True)],
    config: Config,
) -> None:
    """Take the federation secret over."""
    settings = load_yaml_model(config, PlatformConfig)
    own = own_registration(settings, config)
    AdminLog(settings.state).record("secret import")
    taken = KeyFolder(settings.keys).open_secret(sealed, own, Pins(settings.pins).all())
    say(f"fingerprint {taken.fingerprint}; compare it with the sender's crossfed-client secret show")


def own_registration(settings: PlatformConfig, config: Path) -> Registration:
    """The registration that join wrote beside the configuration.

    Raises:
        ConfigError: it is not there.
    """
    return Registration.read(config.parent / f"{settings.name}.registration.json")


def _part(name: str) -> Part:
    for part in get_args(Part):
        if part == name:
            chosen: Part = part
            return chosen
    raise ConfigError(f"--part {name}: there are {', '.join(get_args(Part))}")
