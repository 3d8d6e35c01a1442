"""Draft documents under the headings of the GDPR, from plan, configuration and books; a person answers for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from client.officer.facts import FILL, Facts

_DRAFT = (
    "> Draft, written by `crossfed-client privacy {command}` on {day} from this platform's plan, configuration and books. It "
    "says "
    "what the software does. Where it says {fill}, and wherever law must be weighed, a person decides."
)


def dpia_text(facts: Facts) -> str:
    """A draft data protection impact assessment (GDPR, Article 35(7)), in Markdown."""
    config, plan = facts.config, facts.plan
    return _document(
        f"Data protection impact assessment: {config.name} in federation {plan.federation}",
        "dpia",
        ("1. Who is responsible", [
            f"Controller: {FILL}. Data protection officer: {FILL}.",
            f"The aggregator at {config.aggregator} and the platforms {facts.others} take part; whether they are joint "
            f"controllers (Article 26) or the aggregator a processor (Article 28): {FILL}.",
        ]),
        ("2. Nature and scope of the processing", [
            *(f"Personal data: {line}." for line in facts.categories()),
            f"Persons: users of {config.name}"
            + (f", about {config.declared_users:,}." if config.declared_users else f"; how many: {FILL}."),
            "Users' factors are computed on this platform and stay there. What leaves: "
            + "; ".join(facts.what_leaves()) + ".",
            facts.retention(),
            f"Special categories (Article 9), children: {FILL}.",
        ]),
        ("3. Context and purposes", [
            f"Recommendations to the platform's own users, of own items and of the other platforms': {FILL} (purpose, in the "
            "controller's words; what persons expect and are told).",
            f"Legal basis (Article 6): {FILL}.",
            "Read are " + "; ".join(facts.legal_marks()) + ".",
        ]),
        ("4. Necessity and proportionality", [
            "No raw interaction, id or factor of a user leaves; a federation needs sums only. What can be left out: fewer "
            "shared "
            "items (catalogue.share), no cards (catalogue.cards), fewer days (data.retention_days), a smaller ε.",
            "Whether the shared model helps is measured on the platform's own users, and it serves only where it surely does: "
            f"`crossfed-client doctor` and the run's report say so. Alternatives considered: {FILL}.",
            "Rights of persons: access and portability (`person export`), erasure (`person erase`), objection (`person "
            "optout`); "
            f"completed up to now: {facts.requests_of_persons()}. Information (Articles 13, 14): {FILL}.",
        ]),
        ("5. Risks to the rights and freedoms of persons", ["", *_risk_table(facts)]),
        ("6. Measures", [*_measures(facts), facts.promise(), facts.spent()]),
        ("7. What remains", [
            "Facts about the platform as a whole (what is popular there) may show in the shared parameters.",
            "A person who uses several platforms is protected on each separately; this platform's own federations are added "
            "up by "
            "`crossfed-client privacy sum`.",
            "Sums that have left cannot be called back when a person is erased; noise covers the person in them.",
            "Views of persons or their representatives (Article 35(9)), advice of the officer, decision, date of review: "
            f"{FILL}.",
        ]),
    )  # fmt: skip


def record_text(facts: Facts) -> str:
    """A draft record of processing activities (GDPR, Article 30(1)), in Markdown."""
    config, plan = facts.config, facts.plan
    return _document(
        f"Record of processing: recommendations of {config.name} in federation {plan.federation}",
        "record",
        ("(a) Controller, joint controllers, representative, data protection officer", [FILL]),
        ("(b) Purposes", [f"Recommending items to the platform's users; improving that together with other platforms. {FILL}"]),
        ("(c) Categories of persons and of personal data", [
            f"Users of {config.name}.", *(f"{line[0].upper()}{line[1:]}." for line in facts.categories()),
        ]),
        ("(d) Categories of recipients", [
            f"The aggregator at {config.aggregator}: " + "; ".join(facts.what_leaves()) + ".",
            f"The platforms {facts.others}: item parameters that are learned of all platforms together; no data of this "
            "platform's users.",
            *(["Other platforms, by the person's own hand: passports."] if config.passport.issue else []),
        ]),
        ("(e) Transfers to third countries", [
            f"Where the aggregator ({config.aggregator}) is, and under which guarantees: {FILL}",
        ]),
        ("(f) Time limits for erasure", [facts.retention(), "Erasure on request: at once (`crossfed-client person erase`)."]),
        ("(g) Technical and organisational security measures (Article 32(1))", _measures(facts)),
    )  # fmt: skip


def _measures(facts: Facts) -> list[str]:
    plan, config = facts.plan, facts.config
    found = [
        "Contracts on every message, checked and written down before it leaves (`crossfed-client egress log`).",
        "A sealed ledger charges the budget before anything is computed, and refuses what exceeds it.",
        "Keys are made on the platform; the others' are compared by fingerprint out of band. TLS to the aggregator.",
        "Files of the platform are readable by its own user alone; logs, metrics and reports hold no id.",
    ]
    if plan.secure_sum:
        found.append(
            f"Secure summation among {plan.platforms} platforms: the aggregator sees totals, also if {plan.privacy.colluders} "
            "of "
            "them collude with it."
        )
    apart = config.socket.group is not None
    found.append(
        "Agent and courier run under users of their own."
        if apart
        else "Agent and courier run under one user (socket.group is not set): code shipped by the aggregator could read files."
    )
    return found


def _risk_table(facts: Facts) -> list[str]:
    plan, config = facts.plan, facts.config
    exact = not plan.private
    rows = [
        ("somebody who sees what leaves learns that a person is a user, or what the person has",
         "high: no noise" if exact else "bounded by ε, see 6", "noise for whole histories; ledger; audit"),
        ("the aggregator sees one platform's sums",
         "given" if not plan.secure_sum else "only with more colluding platforms than agreed", "secure summation"),
        ("items of a platform are recognised by their pseudonyms", "possible for who has the platforms' secret",
         "the aggregator does not have it"),
        ("a recommendation tells somebody who looks on of a person's history", "as with any recommender",
         f"application's matter: {FILL}"),
        ("data or model are taken from the host", FILL, "permissions, backups where the role's user cannot write"),
    ]  # fmt: skip
    if config.passport.issue:
        noised = config.passport.epsilon is not None
        rows.append((
            "the receiver of a passport infers items of the history from it",
            f"bounded by ε = {config.passport.epsilon:g} a passport" if noised else "substantial without noise "
            "(docs/passport.md)",
            "only on the person's wish, sealed to one platform, expires",
        ))  # fmt: skip
    return [
        "| risk | likelihood | measure | severity |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} | {FILL} |" for row in rows),
    ]


def _document(title: str, command: str, *sections: tuple[str, Iterable[str]]) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = [f"# {title}", "", _DRAFT.format(command=command, day=day, fill=FILL)]
    for heading, content in sections:
        lines += ["", f"## {heading}", ""]
        lines += [line if line.startswith("|") else f"- {line}" for line in content if line]
    return "\n".join([*lines, ""])
