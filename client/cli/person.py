"""``crossfed-client person``: what an officer does for a person who asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from client.data.reading.exclusions import Why
from client.data.reading.identifiers import required_identifier
from client.person.erasure import Erasures
from client.person.export import export_person, is_known
from client.person.receipt import PersonReceipt
from common.config.loader import load_yaml_model
from common.deploy.console import say, say_json
from common.deploy.provisioning import normal_fingerprint
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.files import write_atomically
from common.sealed.admin import AdminLog

person = typer.Typer(
    no_args_is_help=True, help="What a person may ask for: see what is held, be erased, object; see docs/officer.md."
)
Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]
Id = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="A user id; - reads it from standard input; left out, it is asked for, so that it "
    "stands in no shell's history."),
]  # fmt: skip
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A file of mode 0600.", dir_okay=False)]


@person.command()
def export(config: Config, user: Id = None, output: Output = None) -> None:
    """Write all that is held of a person as JSON: rows, events, histories, passports. Nothing is changed.

    Example: crossfed-client person export 2 -c cinema/platform.yaml -o anna.json
    """
    platform, same = load_yaml_model(config, PlatformConfig), _same(user)
    AdminLog(platform.state).record("person export")
    content = export_person(platform, same)
    if output is None:
        say_json(json.loads(json.dumps(content, default=str)))
        return
    write_atomically(output, json.dumps(content, ensure_ascii=False, indent=1, default=str).encode())
    known = "" if is_known(content) else "; nothing is held of this person"
    say(f"{output}: written{known}")


@person.command()
def erase(config: Config, user: Id = None, output: Output = None) -> None:
    """Erase a person from all that crossfed keeps, for good; a signed receipt says what was done and what cannot be.

    Works while the platform runs. Killed in between, it goes on with resume or at the platform's next start.

    Example: crossfed-client person erase 2 -c cinema/platform.yaml -o receipt.json
    """
    _leave_out(config, user, "erased", output)


@person.command()
def optout(
    config: Config,
    user: Id = None,
    output: Output = None,
    back: Annotated[
        bool, typer.Option("--back", help="Take an objection back: data count again when next read.")
    ] = False,
) -> None:
    """Use a person's data no more: as erase does, but the person may take it back (--back).

    Example: crossfed-client person optout 2 -c cinema/platform.yaml
    """
    if not back:
        _leave_out(config, user, "objected", output)
        return
    platform, same = load_yaml_model(config, PlatformConfig), _same(user)
    AdminLog(platform.state).record("person objection taken back")
    if Erasures(platform).take_back(same):
        say("taken back: the person's rows count again when the data are next read (restart, or SIGHUP)")
    else:
        say("there was no objection to take back; who was erased stays left out")


@person.command()
def resume(config: Config) -> None:
    """Complete what was begun and cut short.

    Example: crossfed-client person resume -c cinema/platform.yaml
    """
    receipts = Erasures(load_yaml_model(config, PlatformConfig)).resume()
    for receipt in receipts:
        say(f"completed: {receipt.receipt} ({receipt.act})")
    if not receipts:
        say("nothing was left unfinished")


@person.command()
def reapply(
    exclusions: Annotated[Path, typer.Argument(help="exclusions.json as it was kept.", exists=True, dir_okay=False)],
    config: Config,
) -> None:
    """After a backup was restored: leave out and erase again whoever is on a list that is newer than the backup.

    Example: crossfed-client person reapply kept/exclusions.json -c cinema-again/platform.yaml
    """
    platform = load_yaml_model(config, PlatformConfig)
    AdminLog(platform.state).record("person reapply")
    receipts = Erasures(platform).reapply(exclusions)
    say(f"{len(receipts)} left out again, and erased from what was restored")


@person.command()
def verify(
    receipt: Annotated[Path, typer.Argument(help="A receipt.", exists=True, dir_okay=False)],
    fingerprint: Annotated[str | None, typer.Option(help="The platform's, as its operator reads it out.")] = None,
) -> None:
    """Check a receipt's signature, and whose it is.

    Example: crossfed-client person verify receipt.json
    """
    found = PersonReceipt.read(receipt)
    if fingerprint is not None and normal_fingerprint(fingerprint) != found.fingerprint:
        raise ConfigError(f"{receipt}: is signed by {found.fingerprint}, not by the platform that you were told")
    say(f"{found.act} at {found.platform}, completed {found.completed}; signed by {found.fingerprint}")


def _leave_out(config: Path, user: str | None, why: Why, output: Path | None) -> None:
    platform = load_yaml_model(config, PlatformConfig)
    erasures, same = Erasures(platform), _same(user)
    AdminLog(platform.state).record(f"person {why}")
    receipt = erasures.complete(erasures.begin(same, why))
    if output is not None:
        receipt.write(output)
    say(f"receipt {receipt.receipt}" + ("" if output is None else f": {output}"))
    for line in receipt.done:
        say(f"done: {line}")
    for line in receipt.own_files:
        say(f"yours to mend: {line}")
    for line in receipt.not_undone:
        say(f"not undone: {line}")


def _same(user: str | None) -> str:
    given = sys.stdin.readline().rstrip("\n") if user == "-" else user or typer.prompt("user id")
    return required_identifier("ID", given)
