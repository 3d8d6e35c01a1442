"""The commands of ``crossfed-client`` that ask for recommendations: of a store on this machine, or of a running recommender."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Protocol, cast, get_args

import typer

from client.cli.batch import write_lists
from client.personalization.store import PlatformStore
from client.recommend.answers import AttributeCondition, Explanation, ItemFilter, Recommendation, Scope
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.service.client import RecommenderClient
from client.steering.hidden import HiddenItems
from common.deploy.console import PlainConsole, PlainTable, say, say_json
from common.errors import ConfigError

_SHOWN = 5e-4
_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(!=|>=|<=|=)\s*(.*\S)\s*")

Store = Annotated[Path | None, typer.Option(help="The platform's model store, where no recommender need run.")]
Target = Annotated[str | None, typer.Option(help="HOST:PORT of a running recommender, which knows later feedback.")]
Token = Annotated[
    Path | None, typer.Option("--token-file", help="Holds the recommender's API token.", exists=True, dir_okay=False)
]
Authority = Annotated[
    Path | None, typer.Option("--ca", help="PEM of the authority, where it serves TLS.", exists=True, dir_okay=False)
]
User = Annotated[str, typer.Option(help="A user id of this platform.")]
Item = Annotated[str, typer.Option(help="The key of an item, as recommend shows it.")]
HowMany = Annotated[int, typer.Option("-k", min=1, help="How many items.")]
ScopeName = Annotated[
    str, typer.Option(help="own: this platform's items; cross: items of the others; all: both in one list.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Only items of which this holds: genres=Drama, maker!='Some one', 'year>=1990'. May be repeated: all must hold, "
        "and of one attribute's values (=) one."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Answers(Protocol):
    """Answers what can be asked."""

    def recommend(self, user_id: str, k: int, scope: Scope, *, wanted: ItemFilter) -> list[Recommendation]:
        """The k best items for a user."""

    def similar_items(self, item_key: str, k: int, scope: Scope, *, wanted: ItemFilter) -> list[Recommendation]:
        """The k items most like an item."""

    def explain(self, user_id: str, item_key: str, *, limit: int) -> Explanation:
        """Why an item has its score for a user."""


class StoredModel:
    """Answers from the current version of a store."""

    def __init__(self, store: Path) -> None:
        self._recommender = Recommender(PlatformStore(store).load())
        self._lists = ListMaker(hidden=HiddenItems(store))

    def recommend(self, user_id: str, k: int, scope: Scope, *, wanted: ItemFilter) -> list[Recommendation]:
        prepared = self._recommender.prepare(self._recommender.history_of(user_id))
        return self._lists.recommend(self._recommender, prepared, k, scope, wanted=wanted)

    def similar_items(self, item_key: str, k: int, scope: Scope, *, wanted: ItemFilter) -> list[Recommendation]:
        return self._lists.similar(self._recommender, item_key, k, scope, wanted=wanted)

    def explain(self, user_id: str, item_key: str, *, limit: int) -> Explanation:
        return self._recommender.explain(self._recommender.history_of(user_id), item_key, limit=limit)


def add_commands(app: typer.Typer) -> None:
    """Put these commands into ``crossfed-client``."""
    for command in (recommend, similar, explain, feedback):
        app.command()(command)


def recommend(
    user: Annotated[str | None, typer.Option(help="A user id of this platform.")] = None,
    store: Store = None,
    target: Target = None,
    k: HowMany = 10,
    scope: ScopeName = "all",
    where: Where = None,
    token: Token = None,
    ca: Authority = None,
    as_json: AsJson = False,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's list, into --output.")] = False,
    users: Annotated[
        Path | None,
        typer.Option(help="The lists of the users in this file, one id a line, into --output.", exists=True),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A Parquet file.", dir_okay=False)] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="platform.yaml in place of --store: lists as it steers them.", exists=True),
    ] = None,
) -> None:
    """Show the best items for a user: title, score, and the platforms that have it. Or write the lists of many users.

    Example: crossfed-client recommend --store out/quickstart/platforms/cinema/store --user 2 -k 5 --scope cross

    Or, of some items alone: crossfed-client recommend --target 127.0.0.1:50061 --user 2 --where genres=Drama

    Or: crossfed-client recommend --target 127.0.0.1:50061 --token-file cinema/keys/api.token --user 2

    Or: crossfed-client recommend --all -k 20 --config cinema/platform.yaml --output recs.parquet
    """
    if everybody or users is not None or output is not None:
        only = {"--user": user, "--target": target, "--token-file": token, "--ca": ca}
        if given := [name for name, value in only.items() if value is not None]:
            raise ConfigError(f"{given[0]}: does not go with --all and --users, which read a model from disk")
        if everybody == (users is not None) or output is None:
            raise ConfigError("--all, --users FILE: give one of them, and --output FILE")
        write_lists(store, config, output, users, k, _scope(scope))
        return
    if user is None or config is not None:
        raise ConfigError("--user: name one; or write many lists with --all, or --users FILE, and --output FILE")
    with _asked(store, target, token, ca) as answers:
        _show_items(answers.recommend(user, k, _scope(scope), wanted=wanted_items(where)), as_json=as_json)


def similar(
    item: Item,
    store: Store = None,
    target: Target = None,
    k: HowMany = 10,
    scope: ScopeName = "all",
    where: Where = None,
    token: Token = None,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Show the items most like an item; the score is the cosine.

    Example: crossfed-client similar --target 127.0.0.1:50061 --token-file cinema/keys/api.token --item imdb:0114709
    """
    with _asked(store, target, token, ca) as answers:
        _show_items(answers.similar_items(item, k, _scope(scope), wanted=wanted_items(where)), as_json=as_json)


def explain(
    user: User,
    item: Item,
    store: Store = None,
    target: Target = None,
    limit: Annotated[int, typer.Option(min=1, help="How many items of the history to list.")] = 10,
    token: Token = None,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Show why an item has its score for a user: what each item of the history, the item itself and popularity added.

    Example: crossfed-client explain --store out/quickstart/platforms/cinema/store --user 2 --item imdb:0114709
    """
    with _asked(store, target, token, ca) as answers:
        why = answers.explain(user, item, limit=limit)
    if as_json:
        say_json(asdict(why))
    else:
        console = PlainConsole()
        console.print(explanation_table(why))
        if why.reasons:
            console.print(f"Because the user had: {because(why)}")


def feedback(
    user: User,
    item: Item,
    target: Annotated[str, typer.Option(help="HOST:PORT of a running recommender.")],
    value: Annotated[
        float | None, typer.Option(help="Weight of the event, or rating; explicit feedback needs it.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="The same id again is the same event; a new one unless given.")
    ] = None,
    token: Token = None,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Record that a user had an item: on disk when this command ends, and part of the next recommendation.

    Example: crossfed-client feedback --target 127.0.0.1:50061 --token-file cinema/keys/api.token --user 2 --item imdb:0114709
    """
    with _client(target, token, ca) as recommender:
        receipt = recommender.record_feedback(user, item, value=value, event_id=event_id)
    if as_json:
        say_json(asdict(receipt))
        return
    known = "" if receipt.reflected else "; the model does not know the item yet"
    say(f"{'recorded before' if receipt.duplicate else 'recorded'} as number {receipt.sequence}{known}")


def recommendation_table(items: Sequence[Recommendation]) -> PlainTable:
    """A list of recommendations for people."""
    table = PlainTable()
    table.add_column("#", justify="right")
    for heading in ("title", "genres", "from", "key"):
        table.add_column(heading)
    table.add_column("score", justify="right")
    for rank, item in enumerate(items, start=1):
        cells = (item.title, ", ".join(item.genres), ", ".join(item.platforms), item.key)
        table.add_row(str(rank), *cells, f"{item.score:.3f}")
    return table


def explanation_table(why: Explanation) -> PlainTable:
    """A score taken apart, for people: largest parts of the history first, then the rest, then the sum."""
    table = PlainTable("what", title=f"{why.title} ({why.decided_by})")
    table.add_column("adds", justify="right")
    rows = [(f"{part.title}  {part.key}", part.amount) for part in why.contributions]
    rows += [("other items of the history", why.others)] if why.others else []
    # What the deep model's attributes miss of the item's own part is its bias, and the error of the attribution.
    rows += [(f"the item's {'own row' if name == 'id' else name}", amount) for name, amount in why.attributes.items()]
    passport = why.models.get("passport")
    brought = 0.0 if passport is None else passport.amount
    rows += [(f"what you brought from {', '.join(why.passports)}", brought)] if brought else []
    rest = why.item_bias - sum(why.attributes.values()) - brought
    rows += [("the item itself", rest)] if abs(rest) >= _SHOWN else []
    rows += [("popularity", why.popularity)] if why.popularity else []
    for what, amount in rows:
        table.add_row(what, f"{amount:+.3f}")
    table.add_row("score", f"{why.score:.3f}", style="bold")
    return table


def because(why: Explanation) -> str:
    """Return what the item and the history have in common, in words: ``maker Le Guin (4 of 12)``."""
    return ", ".join(f"{one.attribute} {one.value} ({one.count} of {one.of})" for one in why.reasons)


def wanted_items(where: Sequence[str] | None) -> ItemFilter:
    """The filter that ``--where`` says.

    >>> wanted_items(["genres=Drama", "genres=War", "year>=1990"]).attributes[0].any_of
    ('Drama', 'War')

    Raises:
        ConfigError: it says none.
    """
    conditions: dict[str, AttributeCondition] = {}
    for text in where or ():
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(f"--where {text!r}: write NAME=VALUE, NAME!=VALUE, 'NAME>=NUMBER' or 'NAME<=NUMBER'")
        name, sign, value = found.groups()
        known = conditions.get(name, AttributeCondition(name))
        if sign == "=":
            known = replace(known, any_of=(*known.any_of, value))
        elif sign == "!=":
            known = replace(known, none_of=(*known.none_of, value))
        elif sign == ">=":
            known = replace(known, at_least=_number(text, value))
        else:
            known = replace(known, at_most=_number(text, value))
        conditions[name] = known
    return ItemFilter(attributes=tuple(conditions.values()))


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--where {text!r}: {value!r} is no number")
    return number


def _asked(
    store: Path | None, target: str | None, token: Path | None, ca: Path | None
) -> AbstractContextManager[Answers]:
    if (store is None) == (target is None):
        raise ConfigError("--store, --target: give one of them: a model store, or HOST:PORT of a running recommender")
    if target is not None:
        return _client(target, token, ca)
    if token is not None or ca is not None:
        raise ConfigError("--token-file, --ca: are for --target; a store is read from disk")
    assert store is not None
    return nullcontext(StoredModel(store))


def _client(target: str, token: Path | None, ca: Path | None) -> RecommenderClient:
    try:
        secret = None if token is None else (token.read_text().split() or [""])[0]
    except OSError as error:
        raise ConfigError(f"--token-file: {token} cannot be read ({error.strerror})") from None
    return RecommenderClient(target, token=secret, root_certificates=ca, timeout=30.0)


def _show_items(items: Sequence[Recommendation], *, as_json: bool) -> None:
    if as_json:
        say_json([asdict(item) for item in items])
    else:
        PlainConsole().print(recommendation_table(items))


def _scope(name: str) -> Scope:
    if name not in get_args(Scope):
        raise ConfigError(f"--scope {name}: there are {', '.join(get_args(Scope))}")
    return cast("Scope", name)
