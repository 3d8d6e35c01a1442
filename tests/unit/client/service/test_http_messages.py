"""The messages of HTTP are those of recommender.proto, and the OpenAPI page describes them without anything from elsewhere."""

from __future__ import annotations

import json
import re

import pytest
from google.protobuf.descriptor import FieldDescriptor

from client.service import http_messages
from client.service.http_gateway import OPERATIONS
from client.service.http_messages import Message
from client.service.openapi import pages, specification
from common.proto import recommender_pb2 as pb

OTHER_NAMES = {"FeedbackRequest": "RecordFeedbackRequest", "FeedbackReply": "RecordFeedbackReply"}
LEFT_OUT = {"IssuePassportReply": {"passport"}}  # bytes; the text is the same


def of_proto() -> list[type[Message]]:
    own = ("Message", "Answer", "Refusal", "Refused")
    found = [one for one in vars(http_messages).values() if isinstance(one, type) and issubclass(one, Message)]
    return [one for one in found if one.__name__ not in own and not one.__name__.startswith("_")]


@pytest.mark.parametrize("model", of_proto(), ids=lambda model: model.__name__)
def test_each_message_has_the_fields_of_its_protobuf_message(model):
    name = OTHER_NAMES.get(model.__name__, model.__name__)
    fields = pb.DESCRIPTOR.message_types_by_name[name].fields_by_name
    assert set(model.model_fields) == set(fields) - LEFT_OUT.get(name, set())
    for field, told in model.model_fields.items():
        assert told.description, field
        assert fields[field].is_repeated == bool(re.match(r"tuple|dict", str(told.annotation))), field
    assert model.__doc__


def test_every_call_of_the_service_has_a_path():
    calls = pb.DESCRIPTOR.services_by_name["Recommender"].methods_by_name
    assert {operation.method for operation in OPERATIONS} == set(calls)
    for operation in OPERATIONS:
        name = OTHER_NAMES.get(operation.asked.__name__, operation.asked.__name__)
        assert calls[operation.method].input_type.name == name


def test_a_request_becomes_the_protobuf_message_it_names():
    for model in of_proto():
        name = OTHER_NAMES.get(model.__name__, model.__name__)
        if not name.endswith("Request"):
            continue
        made = getattr(pb, name)()
        for field in made.DESCRIPTOR.fields:
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and field.name in model.model_fields:
                setattr(made, field.name, f"a {field.name}")
        given = {one.name: value for one, value in made.ListFields()}
        if "history" in model.model_fields:
            given["history"] = [{"item_key": "imdb:1", "value": 2.0}]
            made.history.add(item_key="imdb:1", value=2.0)
        if "passport" in model.model_fields:
            given["passport"] = "a passport"
        read = model.model_validate_json(json.dumps(given)).fields()
        if "passport" in read:
            read["passport"] = read["passport"].encode()
            made.passport = b"a passport"
        for name_, value in (("k", 10), ("scope", pb.SCOPE_ALL), ("exclude_seen", True)):
            if name_ in model.model_fields:
                setattr(made, name_, value)
        assert type(made)(**read) == made


def test_the_pages_are_whole_and_ask_nothing_of_others():
    told = specification(OPERATIONS)
    text = json.dumps(told)
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names <= set(told["components"]["schemas"])
    media_type, page = pages(OPERATIONS)["/docs"]
    html = page.decode()
    assert media_type == "text/html"
    assert not re.search(r"<(script|link|img|iframe|object)|@import|url\(", html)
    assert set(re.findall(r"https?://[^\s/:'\"]+", html)) == {"http://127.0.0.1"}
    links = set(re.findall(r"href='#(\w+)'", html))
    assert links <= set(re.findall(r"id='(\w+)'", html))
    for operation in OPERATIONS:
        assert operation.path in html
        assert told["paths"][operation.path]["post"]["summary"]


def test_described_attributes_are_asked_for_and_shown_as_json() -> None:
    told = pb.RecommendReply(
        items=[
            pb.ListedItem(
                key="x:1",
                attributes={"maker": pb.AttributeValue(values=["数"]), "year": pb.AttributeValue(number=0.0)},
            )
        ]
    )
    (item,) = http_messages.RecommendReply.model_validate(told).model_dump()["items"]
    assert item["attributes"] == {
        "maker": {"values": ("数",), "number": None},
        "year": {"values": (), "number": 0.0},
    }
    asked = {"user_id": "u", "filter": {"attributes": [{"attribute": "year", "at_least": 1990}]}}
    request = pb.RecommendRequest(**http_messages.RecommendRequest.model_validate_json(json.dumps(asked)).fields())
    (condition,) = request.filter.attributes
    assert (condition.attribute, condition.at_least, condition.HasField("at_most")) == ("year", 1990.0, False)
    why = pb.ExplainReply(reasons=[pb.Reason(attribute="maker", value="数", count=2, of=3)])
    assert http_messages.ExplainReply.model_validate(why).model_dump()["reasons"][0]["value"] == "数"
