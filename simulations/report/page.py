"""``report.html``: a run for people to read, one file that needs nothing else and asks nobody for anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from markupsafe import Markup

from client.privacy.card import limits_of
from common.config.federation import FederationPlan
from common.config.serving import SteeringConfig
from common.errors import ConfigError
from common.files import write_atomically
from common.web.pages import Pages, stylesheet
from common.web.texts import Language, Texts
from simulations.report.drawing import cloud, dots, lines
from simulations.report.samples import sample_lists
from simulations.report.steered import QUANTITIES, steered_lists
from simulations.studies.item_map import SEVERAL, ItemMap, items_of

REPORT: Final = "report.html"
PACKAGE: Final = "simulations.report"
MERIT: Final = "recall@20"
_OWN: Final = ("popularity", "local", "shared", "final")
_CROSS: Final = ("popularity", "shared", "final")
_Series = dict[str, list[tuple[float | None, Sequence[float] | None]]]


def write_report(
    run: Path, *, language: Language = "en", users: Sequence[str] = (), steering: SteeringConfig | None = None
) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Args:
        run: what ``crossfed-simulate run --output`` wrote, of this release or an earlier one.
        language: of the page. What the code says of the data (cleaning, mechanism) stays English.
        users: ``PLATFORM:ID`` of real users whose lists are shown as well; nobody's unless asked for.
        steering: shown is what it would change in the lists as a whole; None: as the scenario says, which may be nothing.

    Raises:
        ConfigError: ``run`` is no folder of a finished run, or there is no such platform.
        DataError: there is no such user.
        StoreError: a platform's store is damaged.
    """
    path, content = run / REPORT, read_run(run)
    if steering is None and (rules := content.get("configuration", {}).get("steering")) is not None:
        steering = SteeringConfig.model_validate(rules)
    write_atomically(path, report_page(content, run, language, users, steering).encode(), mode=0o644)
    return path


def read_run(run: Path) -> dict[str, Any]:
    """``result.json`` of a run.

    Raises:
        ConfigError: it is not there, or is none.
    """
    path = run / "result.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["platforms"], content["scenario"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is no result of a finished run; give a folder that crossfed-simulate run --output wrote"
        ) from error
    return content


def report_page(
    content: Mapping[str, Any],
    run: Path,
    language: Language,
    users: Sequence[str] = (),
    steering: SteeringConfig | None = None,
) -> str:
    """The page itself: what ``result.json`` says, and what the stores beside it hold."""
    pages = Pages(PACKAGE)

    return pages.render(
        "report.html",
        language,
        style=Markup(stylesheet()),  # noqa: S704 -- our own file
        run=content,
        title=content["scenario"],
        own_scorers=_OWN,
        cross_scorers=_CROSS,
        crossing={platform: part["cross"] for platform, part in content["platforms"].items() if part["cross"]},
        groups=("cold", "active", "rare", "popular"),
        figures=_figures(content, pages.texts, language),
        items=_items(items_of(run), pages.texts, language),
        samples=sample_lists(run, users),
        cleaning=_cleaning(content),
        configuration=None
        if "configuration" not in content
        else yaml.safe_dump(content["configuration"], allow_unicode=True, sort_keys=False),
        steered=[] if steering is None else steered_lists(run, steering, list(content["platforms"])),
        quantities=QUANTITIES,
        card=_card(run),
        limits=_limits(content, language),
    )


def _figures(content: Mapping[str, Any], texts: Texts, language: Language) -> dict[str, Markup | None]:
    def name(word: str) -> str:
        return texts.known(language, "scorer", word)

    platforms = content["platforms"]
    own: _Series = {name(scorer): [_merit(part["own"][scorer]) for part in platforms.values()] for scorer in _OWN}
    own[name("pooled")] = [_merit(content["pooled"].get(platform)) for platform in platforms]
    crossing = {platform: part["cross"] for platform, part in platforms.items() if part["cross"]}
    cross: _Series = {
        name(scorer): [_merit(block.get(scorer)) for block in crossing.values()] for scorer in (*_CROSS, "ceiling")
    }
    objective = [
        (record["round"], record["objective"]) for record in content["rounds"] if record["objective"] is not None
    ]
    price = {
        platform: [(point["epsilon"], point["own"][platform][MERIT]) for point in content["price"]]
        for platform in platforms
    }
    merit = texts.say(language, "recall")
    return {
        "own": dots("own", list(platforms), own, merit),
        "cross": dots("cross", list(crossing), cross, merit) if crossing else None,
        "objective": lines("objective", {"": objective}, texts.say(language, "round"), texts.say(language, "objective"))
        if len(objective) > 1
        else None,
        "price": lines("price", price, "ε", merit, logarithmic=True) if content["price"] else None,
    }


def _merit(block: Mapping[str, Any] | None) -> tuple[float | None, Sequence[float] | None]:
    return (None, None) if block is None else (block[MERIT], block["ci95"].get(MERIT))


def _items(found: ItemMap | None, texts: Texts, language: Language) -> dict[str, Any] | None:
    if found is None:
        return None
    several = texts.say(language, "several_platforms")
    groups = [several if owner == SEVERAL else owner for owner in found.platform]
    untitled = texts.say(language, "untitled")
    first = next(iter(found.values.values()), None)
    names = [title or untitled for title in found.titles]
    names = names if first is None else [f"{name} · {value}" for name, value in zip(names, first, strict=True)]
    figure, shown = cloud(found.points, names, groups, several, found.axes)
    return {"figure": figure, "shown": shown, "all": len(found.titles)}


def _cleaning(content: Mapping[str, Any]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Reports with the platforms that have them: several where they have their data from one file. Names of files, no paths."""
    found: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for platform, part in content["platforms"].items():
        report = dict(part["cleaning"]) | {"source": Path(part["cleaning"]["source"]).name}
        found.setdefault(json.dumps(report), ([], report))[0].append(platform)
    return list(found.values())


def _limits(content: Mapping[str, Any], language: Language) -> list[str]:
    """Return what the promise does not hide; nothing of a run of an earlier release, which did not write its plan down."""
    if "configuration" not in content:
        return []
    return limits_of(FederationPlan.model_validate(content["configuration"]["plan"]), language)


def _card(run: Path) -> str | None:
    path = run / "privacy.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None
