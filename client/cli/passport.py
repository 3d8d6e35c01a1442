"""``crossfed-client passport``: issue, show, redeem and revoke passports, and the log of receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import segno
import typer

from client.data.reading.identifiers import required_identifier
from client.passport.books import Receipt
from client.passport.desk import PassportDesk
from client.passport.envelope import Passport, armoured, read_passport
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from common.config.loader import load_yaml_model
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, PassportError
from common.files import write_atomically
from common.sealed.admin import AdminLog

passport = typer.Typer(
    no_args_is_help=True, help="What a person carries to another platform, and brings from one; see docs/passport.md."
)
Config = Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)]
User = Annotated[str, typer.Option(help="A user id of this platform.")]
File = Annotated[Path, typer.Argument(help="A passport, as bytes or text.", exists=True, dir_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@passport.command()
def issue(
    config: Config,
    user: User,
    to: Annotated[str, typer.Option(help="The pinned platform that it is for.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it, as text.", dir_okay=False)],
    account: Annotated[
        str | None, typer.Option(help="The user's account there; left out: the first that redeems it.")
    ] = None,
    qr: Annotated[
        Path | None, typer.Option(help="Also draw the text as a QR code: a file .svg or .png.", dir_okay=False)
    ] = None,
) -> None:
    """Issue a passport to a user, who asked for it; the receipt is on disk before the file is written.

    Examples:
      crossfed-client passport issue -c cinema/platform.yaml --user 2 --to books -o anna.passport
      crossfed-client passport issue -c cinema/platform.yaml --user 2 --to books -o anna.passport --qr anna.svg
    """
    if qr is not None and qr.suffix not in (".svg", ".png"):
        raise ConfigError(f"--qr: {qr.name} ends neither in .svg nor in .png; name the file so")
    with _desk(config) as (desk, platform):
        model = PlatformStore(platform.state / "store").load()
        same = required_identifier("--user", user)
        history = Recommender(model).history_of(same)
        made, receipt = desk.issue(model, history, same, to, account)
    write_atomically(output, armoured(made).encode())
    if qr is not None:
        write_atomically(qr, _drawn(armoured(made), qr.suffix[1:]))
    say(f"{output}: {', '.join(receipt.kinds)} for {to}, until {_day(receipt.until)}; serial {receipt.serial}")


@passport.command()
def show(file: File, as_json: AsJson = False) -> None:
    """Show what anybody can read of a passport: issuer, receiver, times, serial. The rest is sealed.

    Example: crossfed-client passport show anna.passport
    """
    found = _read(file)
    head = found.head
    facts: dict[str, Any] = {
        "serial": found.serial,
        "issuer": head.issuer,
        "receiver": head.receiver,
        "not_before": head.not_before,
        "expires": head.expires,
        "bytes": len(found.encoded()),
    }
    if as_json:
        say_json(facts)
        return
    expired = " (expired)" if time.time() >= head.expires else ""
    say(f"from {head.issuer} to {head.receiver}, {_day(head.not_before)} … {_day(head.expires)}{expired}")
    say(f"serial {found.serial}, {facts['bytes']} bytes; its content is sealed to {head.receiver}")


@passport.command()
def redeem(config: Config, user: User, file: File) -> None:
    """Redeem a passport for a user of this platform, who brought it.

    Example: crossfed-client passport redeem -c books/platform.yaml --user anna anna.passport
    """
    with _desk(config) as (desk, _):
        redeemed, before = desk.redeem(file.read_bytes(), required_identifier("--user", user))
    receipt = redeemed.receipt
    done = "was redeemed before" if before else "redeemed"
    say(f"{done}: {', '.join(receipt.kinds)} from {receipt.platform}, until {_day(receipt.until)}; {receipt.serial}")


@passport.command()
def revoke(
    config: Config,
    serial: Annotated[str | None, typer.Argument(help="Of one passport, as the log shows it.")] = None,
    user: Annotated[str | None, typer.Option(help="All passports of this user.")] = None,
) -> None:
    """Forget what passports brought, at once: a running recommender notices within a second and learns its bridge anew.

    Example: crossfed-client passport revoke -c books/platform.yaml --user anna
    """
    if (serial is None) == (user is None):
        raise ConfigError("SERIAL, --user: give one of them")
    with _desk(config) as (desk, platform):
        # Neither whose nor which: both name a person to whoever has the receipts.
        AdminLog(platform.state).record("passport revoke")
        if serial is not None:
            receipts = desk.books.revoke(serial)
        else:
            receipts = desk.books.revoke_user(required_identifier("--user", user or ""))
    for receipt in receipts:
        say(f"revoked: {receipt.serial}, {receipt.direction}, {receipt.platform}")
    if not receipts:
        say("nothing to revoke: no passport of this user was issued or redeemed here")


@passport.command()
def log(
    config: Config,
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the receipts: who, what, for whom, when, until when. It names users: it stays on this machine.

    Example: crossfed-client passport log -c books/platform.yaml
    """
    with _desk(config) as (desk, _):
        receipts = desk.books.receipts(None if user is None else required_identifier("--user", user))
    if as_json:
        say_json([asdict(receipt) for receipt in receipts])
    else:
        PlainConsole().print(_table(receipts))


def _drawn(text: str, kind: str) -> bytes:
    """A QR code as a picture.

    Raises:
        PassportError: the text is too long for one.
    """
    try:
        code = segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError as error:
        raise PassportError(
            f"--qr: {len(text)} characters are too many for a QR code, so the text alone was written; leave out contents, or "
            "lower passport.dimension"
        ) from error
    picture = BytesIO()
    code.save(picture, kind=kind, scale=4)
    return picture.getvalue()


@contextmanager
def _desk(config: Path) -> Iterator[tuple[PassportDesk, PlatformConfig]]:
    platform = load_yaml_model(config, PlatformConfig)
    if not platform.state.is_dir():
        raise ConfigError(f"{platform.state}: this platform has no private folder yet; run crossfed-client start first")
    desk = PassportDesk.of(platform)
    try:
        yield desk, platform
    finally:
        desk.books.close()


def _read(file: Path) -> Passport:
    return read_passport(file.read_bytes())


def _table(receipts: list[Receipt]) -> PlainTable:
    table = PlainTable()
    for heading in ("when", "what", "user", "platform", "content", "until", "state", "serial"):
        table.add_column(heading)
    now = time.time()
    for one in receipts:
        cells = (
            one.direction,
            one.user,
            one.platform,
            ", ".join(one.kinds),
            _day(one.until),
            one.state(now),
            one.serial,
        )
        table.add_row(_day(one.at), *cells)
    return table


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
