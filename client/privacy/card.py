"""The privacy card: what a run promised, under which assumptions, what it spent, and what left. For lawyers and engineers.

One card describes the promise (the same for all platforms of a run) and lists platforms; a platform that runs by itself
has a card with one platform on it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from client.privacy.spend import Spend
from common.attributes import ALWAYS
from common.config.federation import FederationPlan
from common.contributions.registry import all_kinds, kinds_of
from common.contributions.run_plan import RunPlan
from common.web.texts import Language, Texts

_PACKAGE: Final = "client.privacy"


@dataclass(frozen=True, kw_only=True)
class PlatformSpend:
    """One platform's line on the card.

    Attributes:
        spend: of its ledger.
        messages: how many messages left.
        bytes: of their arrays.
        kinds: number of messages by kind.
    """

    spend: Spend
    messages: int
    bytes: int
    kinds: Mapping[str, int]

    @classmethod
    def of(cls, spend: Spend, entries: list[dict[str, Any]]) -> PlatformSpend:
        """From a ledger's report and the entries of the egress journal."""
        sent = [entry for entry in entries if entry["event"] in ("sent", "replied")]
        kinds: dict[str, int] = {}
        for entry in sent:
            kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + 1
        return cls(spend=spend, messages=len(sent), bytes=sum(entry["bytes"] for entry in sent), kinds=kinds)


def card_content(
    plan: FederationPlan, platforms: Mapping[str, PlatformSpend], audit: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``privacy`` part of result.json.

    Args:
        plan: the run's.
        platforms: by name.
        audit: what ``crossfed-simulate audit`` found of the code that ran: ``kinds``, ``epsilon_claimed``, ``delta``,
            ``epsilon_hat``, ``epsilon_lower``, ``runs``, ``flags``; None if it was not run.
    """
    content: dict[str, Any] = {
        "mode": plan.privacy.mode,
        "unit": "one user's whole history on one platform",
        "neighbours": "data sets that differ by one user's whole history, added or removed",
        "ids": _IDS,
        "described": {**ALWAYS, **plan.attributes.kinds},
        "platforms": {name: _platform(part) for name, part in platforms.items()},
        "audit": dict(audit) if audit else None,
    }
    if not plan.private:
        return content | {"epsilon": None, "delta": None, "mechanism": None, "noise": None}
    releases = RunPlan.of(plan).release_plan()
    return content | {
        "epsilon": plan.privacy.epsilon,
        "delta": plan.delta,
        "mu": RunPlan.of(plan).gaussian_mu,
        **{kind.card_key: kind.facts(plan) if kind.takes_part(plan) else None for kind in all_kinds() if kind.card_key},
        "mechanism": f"discrete Gaussian on clipped sums over users ({plan.privacy.release}), composed as Gaussian DP",
        "noise": plan.privacy.noise,
        "colluders": plan.privacy.colluders,
        "dropouts": plan.privacy.dropouts,
        "user_bound": plan.privacy.user_bound,
        "parameters": releases.parameters.model_dump(),
        "noise_multipliers": {
            "counts": releases.counts.noise_multiplier,
            "rounds": [
                {release.kind: release.noise_multiplier for release in part.releases()} for part in releases.rounds
            ],
        },
    }


def _platform(part: PlatformSpend) -> dict[str, Any]:
    return {
        "epsilon_spent": part.spend.epsilon,
        "delta": part.spend.policy.delta,
        "budget": part.spend.policy.epsilon,
        "messages": part.messages,
        "bytes": part.bytes,
        "kinds": dict(part.kinds),
    }


def card_text(plan: FederationPlan, content: Mapping[str, Any]) -> str:
    """``privacy.md``: the same in words."""
    promise = _private_promise(plan, content) if plan.private else _PLAIN_PROMISE
    rows = [
        f"| {name} | {_epsilon(part)} | {part['delta']:.3g} | {part['budget'] or 'no limit'} | {part['messages']} | "
        f"{part['bytes']:,} |"
        for name, part in content["platforms"].items()
    ]
    return "\n".join(
        [
            f"# Privacy card of federation {plan.federation}",
            "",
            promise,
            "## What was spent and what left",
            "",
            "| platform | ε spent, all runs | at δ | lifetime budget (ε) | messages | bytes |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Every message is listed by `crossfed-client egress log --home FOLDER`, every charge by `crossfed-client "
            "privacy --home FOLDER`; `--verify` checks both chains.",
            "",
            _limits(plan),
            "## Audit",
            "",
            _audit(content["audit"], plan),
            "",
        ]
    )


_DEEP_AT_HOME = (
    "- *Deep model*: each platform trains its own at home, after the run, on its own users. No update of it leaves, so it "
    "costs nothing of ε; whoever is served by it is served by what the platform knows.\n"
)
_IDS = (
    "whoever has one user id, in files and recorded feedback alike. Ids are compared in Unicode form NFC, without blanks and "
    "invisible characters at their ends, 3.0 as 3; capitals count. Rows without an id (empty, NULL, nan, None, \\N) are left "
    "out. A person with several ids is protected as several users"
)

_PLAIN_PROMISE = """## No privacy guarantee

**This run was made with `privacy.mode: none`. It is not private.** No raw interaction, user id or user factor left a
platform, but exact sums over users did, and whoever sees them can tell whether a given person's history is among them.
Use it for research on public data only. Each platform's ledger marks its data as spent without bound.
"""

_LIMITS: Final = ("aggregator", "platform", "timing", "own", "spoil")


def limits_of(plan: FederationPlan, language: Language = "en") -> list[str]:
    """Return what the promise does not hide, a paragraph each: the same on cards, reports and in the console."""
    texts = Texts([_PACKAGE])
    names = ", ".join(["title", "genres", *(f"{name} ({kind})" for name, kind in plan.attributes)])
    found = [texts.say(language, f"limit_{name}") for name in _LIMITS]
    found.append(texts.say(language, "limit_described", names=names))
    if plan.private and plan.privacy.item_features:
        found.append(texts.say(language, "limit_digests"))
    if plan.secure_sum:
        found.append(texts.say(language, "limit_totals"))
    return found


def _limits(plan: FederationPlan) -> str:
    lines = (textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ") for text in limits_of(plan))
    return "\n".join(["## What this does not hide", "", *lines, ""])


def _private_promise(plan: FederationPlan, content: Mapping[str, Any]) -> str:
    noise = {
        "secure_sum": (
            f"Each platform adds a share of the noise and masks its sums; the aggregator sees only the total over all "
            f"platforms. The promise holds against the aggregator together with up to {plan.privacy.colluders} "
            f"platform(s), with up to {plan.privacy.dropouts} dropping out of a round."
        ),
        "per_platform": "Each platform adds all of the noise itself; nobody else needs to be trusted.",
    }[plan.privacy.noise]
    return f"""## The promise

For each user of each platform: whatever anyone concludes from all that left the platform in this run, they would have
concluded nearly the same had this user never been there. Formally, the run is (ε, δ)-differentially private with
**ε = {content["epsilon"]:g}** and **δ = {content["delta"]:.3g}** ({_gaussian(content)} is μ-GDP with μ = {content["mu"]:.4f}).

- *Unit*: {content["unit"]}. *Neighbours*: {content["neighbours"]}.
- *Who is one user*: {content["ids"]}.
- *Mechanism*: {content["mechanism"]}; a user's factor is clipped to norm {content["parameters"]["clip_norm"]:g}, item
  weights to total {content["parameters"]["weight_total"]:g}. Noise is exact integer noise from the operating system's
  random number generator.
{_paragraphs(plan, content)}- *Noise*: {noise}
- *Assumptions*: no platform has more than {content["user_bound"]:,} users (δ rests on it); each platform runs this
  software unmodified for its own users' sake; identity fingerprints were compared out of band.
- *Every* release counts: {", ".join(kind.title for kind in kinds_of(plan))} of all rounds.
  No metric, objective or verdict left.
"""


def _gaussian(content: Mapping[str, Any]) -> str:
    return "the factorisation" if content["linear"] is None else "the factorisation with the item-item statistics"


def _paragraphs(plan: FederationPlan, content: Mapping[str, Any]) -> str:
    """Return what the plan's kinds of contributions have to say of themselves, and of a deep model that is none."""
    said = "".join(kind.paragraph(content[kind.card_key]) for kind in kinds_of(plan) if kind.card_key)
    return said if plan.towers is None or plan.federated_towers is not None else said + _DEEP_AT_HOME


def _epsilon(part: Mapping[str, Any]) -> str:
    return "without bound" if part["epsilon_spent"] is None else f"{part['epsilon_spent']:.4g}"


def _audit(audit: Mapping[str, Any] | None, plan: FederationPlan) -> str:
    if not audit:
        return (
            "Not run for this configuration. `crossfed-simulate audit` measures ε of the code that ships; "
            "`crossfed-simulate run --audit FILE` puts what it found here."
        )
    other = "" if plan.private and plan.privacy.epsilon == audit["epsilon_claimed"] else " (not this run's own claim)"
    found = "; ".join(audit["flags"])
    verdict = f" **It found faults, and the promise above does not hold: {found}.**" if found else " It found no fault."
    return (
        f"The path from files to what leaves was tested at a claim of ε = {audit['epsilon_claimed']:g}{other}: measured ε̂ = "
        f"{audit['epsilon_hat']:.3g}, 99 % lower bound {audit['epsilon_lower']:.3g}, in {audit['runs']:,} runs.{verdict}"
        f"{_not_audited(plan, audit)}"
    )


def _not_audited(plan: FederationPlan, audit: Mapping[str, Any]) -> str:
    """Return what the audit does not measure: kinds that its own plan did not have, and variants of the others."""
    missing = [
        name
        for kind in kinds_of(plan)
        for name in (kind.unaudited(plan) if kind.name in audit["kinds"] else (f"the {kind.title}",))
    ]
    if not (plan.private and missing):
        return ""
    return f" Not measured: {', '.join(missing)}."
