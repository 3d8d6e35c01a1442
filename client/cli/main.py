"""``crossfed-client``: a platform's own side of a federation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from client.cli.ask import add_commands as add_ask_commands
from client.cli.console import console
from client.cli.data import data
from client.cli.deploy import add_commands as add_deploy_commands
from client.cli.items import items
from client.cli.models import models
from client.cli.officer import add_commands as add_officer_commands
from client.cli.passport import passport
from client.cli.person import person
from client.cli.serve import serve
from client.passport.book_file import RESTORED_NOTE, restored_passports
from client.personalization.store import PlatformStore
from client.privacy.report import (
    close_run,
    egress_dicts,
    egress_entry,
    egress_entry_table,
    egress_table,
    platform_card,
    privacy_dict,
    privacy_report,
    restore_logs,
    verify_logs,
    verify_table,
)
from common.config.loader import load_yaml_model
from common.deploy.cli import run_app, teach
from common.deploy.console import PlainConsole, say, say_json
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.privacy.lifetime import BudgetPolicy
from common.sealed.admin import AdminLog

app = typer.Typer(
    name="crossfed-client",
    help=teach(
        """A platform's own side of a federation.

        To take part: join, pin, secret, doctor, preview, start. recommend shows what the platform's model recommends to a
        user, explain shows why, similar what is like an item, of a store or of a running recommender; serve answers
        applications from a store; feedback records what a user did; items hides single items; models goes back to an
        earlier version or compares two; export writes the deep model for plain Keras; privacy shows the budget and what was
        spent of it; egress shows what has left the platform; passport issues and redeems what a person carries from platform
        to platform; person shows what is held of somebody, erases it, and takes objections; console shows the platform in a
        browser; data divides the users into shards, for training on a cluster.
        """
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
egress = typer.Typer(no_args_is_help=True, help="What has left this platform: log, verify, show.")
app.add_typer(egress, name="egress")
budget = typer.Typer(help="The privacy budget: what was spent, and what is left.")
app.add_typer(budget, name="privacy")
add_officer_commands(budget)
app.add_typer(passport, name="passport")
app.add_typer(person, name="person")
app.add_typer(data, name="data")
app.add_typer(items, name="items")
app.add_typer(models, name="models")
add_deploy_commands(app)
add_ask_commands(app)
app.command()(serve)
app.command()(console)

Home = Annotated[
    Path,
    typer.Option(
        "--home",
        help="The platform's private folder: holds ledger.db, egress.db and store/.",
        exists=True,
        file_okay=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def export(
    store: Annotated[Path, typer.Option(help="The platform's model store.")],
    output: Annotated[Path, typer.Option(help="Folder for the files; made when it is not there.", file_okay=False)],
) -> None:
    """Write the deep model for plain Keras.

    model.keras is the user tower, content.keras gives a new item its vector; item_vectors.npy, contract.json and
    vocabulary.json say the rest.

    Example: crossfed-client export --store out/quickstart/platforms/cinema/store --output out/cinema-model
    """
    from client.personalization.export import export_model

    for path in export_model(PlatformStore(store).load(), output):
        say(str(path))


@budget.callback(invoke_without_command=True)
def privacy(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="The platform's private folder: holds ledger.db, egress.db and store/.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="platform.yaml, in place of --home.", dir_okay=False, exists=True),
    ] = None,
    as_json: AsJson = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also check every entry of ledger and journal.")] = False,
) -> None:
    """Show the privacy budget, what each run and release has spent of it, and how many runs are left.

    Runs are left as large as the plan of --config, or else as the newest.
    """
    if context.invoked_subcommand is not None:
        return
    platform = None if config is None else load_yaml_model(config, PlatformConfig)
    folder, plan = (home, None) if platform is None else (platform.state, platform.plan)
    if folder is None or not folder.is_dir():
        raise ConfigError(
            "--home: name the platform's private folder, which holds ledger.db; or --config platform.yaml"
        )
    checked = verify_logs(folder) if verify else {}
    if as_json:
        say_json(privacy_dict(folder, plan) | checked)
        return
    PlainConsole().print(privacy_report(folder, plan))
    if checked:
        PlainConsole().print(verify_table(checked))


@budget.command("verify")
def privacy_verify(home: Home) -> None:
    """Check every entry of ledger and journal, the chains and the kept heads; the first bad entry is named."""
    PlainConsole().print(verify_table(verify_logs(home)))


@budget.command("close")
def privacy_close(
    run_id: Annotated[str, typer.Argument(help="As crossfed-client privacy lists it.")], home: Home
) -> None:
    """Give up a run that will not go on: what it reserved and did not use is free again, and nothing leaves under it."""
    AdminLog(home).record("privacy close", run=run_id)
    close_run(home, run_id)
    say(f"{run_id} is closed")


@budget.command("card")
def privacy_card(
    config: Annotated[Path, typer.Option("--config", "-c", help="platform.yaml", dir_okay=False, exists=True)],
) -> None:
    """Print this platform's privacy card, in Markdown: the promise, what was spent, what left, what is not hidden.

    Example: crossfed-client privacy card --config cinema/platform.yaml > privacy.md
    """
    say(platform_card(load_yaml_model(config, PlatformConfig)))


@budget.command("restore")
def privacy_restore(
    home: Home,
    epsilon: Annotated[
        float | None, typer.Option(min=0.0, help="Lifetime ε of the platform; left out: as the old ledger has it.")
    ] = None,
    delta: Annotated[float, typer.Option(min=0.0, max=1.0, help="Lifetime δ, with --epsilon.")] = 1e-6,
) -> None:
    """Go on with an old copy of ledger and journal, or with none: all that the kept heads say was spent counts as spent."""
    AdminLog(home).record("privacy restore")
    policy = None if epsilon is None else BudgetPolicy(epsilon=epsilon, delta=delta)
    PlainConsole().print(verify_table(restore_logs(home, policy)))
    if restored_passports(home, time.time):
        say(f"Passports: {RESTORED_NOTE}.")


@egress.command("log")
def egress_log(home: Home, as_json: AsJson = False) -> None:
    """List every message that left: names, bytes, noise, and the ledger entry that paid for it."""
    if as_json:
        say_json(egress_dicts(home))
    else:
        PlainConsole().print(egress_table(home))


@egress.command("verify")
def egress_verify(home: Home) -> None:
    """Check journal and ledger against each other; the first bad entry is named."""
    PlainConsole().print(verify_table(verify_logs(home)))


@egress.command("show")
def egress_show(
    number: Annotated[int, typer.Argument(help="As in the log.")], home: Home, as_json: AsJson = False
) -> None:
    """Show one message that left, in full."""
    if as_json:
        say_json(egress_entry(home, number))
    else:
        PlainConsole().print(egress_entry_table(home, number))


def main() -> None:
    """Entry point."""
    run_app(app)
