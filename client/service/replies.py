"""Answers of the recommender as messages."""

from __future__ import annotations

from client.passport.books import Receipt
from client.recommend.answers import Explanation, Recommendation
from client.recommend.snapshot import Snapshot
from common.proto import recommender_pb2 as pb


def receipt_of(receipt: Receipt) -> pb.PassportReceipt:
    return pb.PassportReceipt(
        serial=receipt.serial, platform=receipt.platform, kinds=receipt.kinds, at=receipt.at, until=receipt.until
    )


def version_of(snapshot: Snapshot) -> pb.ModelVersion:
    return pb.ModelVersion(version=snapshot.version, server_round=snapshot.recommender.model.server_round)


def listed(item: Recommendation) -> pb.ListedItem:
    shown = pb.ListedItem(
        key=item.key, title=item.title, genres=item.genres, score=item.score, platforms=item.platforms
    )
    # Even an empty map costs as much as all else of the message where it is given at once.
    for name, value in item.attributes.items():
        if isinstance(value, float):
            shown.attributes[name].number = value
        else:
            shown.attributes[name].values.extend(value)
    return shown


def explained(explanation: Explanation, snapshot: Snapshot) -> pb.ExplainReply:
    return pb.ExplainReply(
        item_key=explanation.key,
        title=explanation.title,
        score=explanation.score,
        contributions=[
            pb.Contribution(item_key=item.key, title=item.title, amount=item.amount)
            for item in explanation.contributions
        ],
        others=explanation.others,
        item_bias=explanation.item_bias,
        popularity=explanation.popularity,
        decided_by=explanation.decided_by,
        models=[
            pb.ModelShare(model=name, weight=share.weight, amount=share.amount)
            for name, share in explanation.models.items()
        ],
        model=version_of(snapshot),
        attributes=explanation.attributes,
        passports=explanation.passports,
        reasons=[
            pb.Reason(attribute=one.attribute, value=one.value, count=one.count, of=one.of)
            for one in explanation.reasons
        ],
    )
