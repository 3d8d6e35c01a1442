"""Describes what can be asked over HTTP, to programs (OpenAPI 3.1) and to people, on one page that loads nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from client.service.http_gateway import Operation
from client.service.http_messages import Refused

_TITLE: Final = "crossfed recommender"
_STYLE: Final = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; background: #fff; color: #1b1d23 }
a { color: #0b50b4 }
@media (prefers-color-scheme: dark) { :root { background: #14171c; color: #e8eaee } a { color: #8ab6ff } }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
pre, code { font-family: ui-monospace, monospace; white-space: pre-wrap }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; border-bottom: 1px solid }
"""
_SAMPLES: Final[Mapping[str, Any]] = {
    "user_id": "3",
    "item_key": "imdb:0114709",
    "event_id": "order-1017",
    "history": [{"item_key": "imdb:0114709"}],
    "receiver": "club",
    "passport": "crossfed-passport-1:…",
    "k": 5,
    "scope": "cross",
}


def specification(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI description of ``operations``."""
    modes: dict[type[BaseModel], JsonSchemaMode] = {Refused: "serialization"}
    for operation in operations:
        modes |= {operation.asked: "validation", operation.answer: "serialization"}
    names, schema = models_json_schema(list(modes.items()), ref_template="#/components/schemas/{model}")

    def content(model: Any, mode: Any) -> dict[str, Any]:
        return {"application/json": {"schema": names[model, mode]}}

    paths = {
        operation.path: {
            "post": {
                "operationId": operation.method,
                "summary": operation.asked.__doc__,
                "requestBody": {"required": True, "content": content(operation.asked, "validation")},
                "responses": {
                    "200": {
                        "description": operation.answer.__doc__,
                        "content": content(operation.answer, "serialization"),
                    },
                    "default": {"description": Refused.__doc__, "content": content(Refused, "serialization")},
                },
            }
        }
        for operation in operations
    }
    health = {"get": {"operationId": "Health", "summary": "Whether the service serves.", "security": [], "responses": {
        "200": {"description": "It does."}, "503": {"description": "It does not, or not yet."}}}}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": _TITLE,
            "version": "1",
            "description": "A platform's own recommender, for its own applications.",
        },
        "security": [{"token": []}],
        "paths": paths | {"/health": health},
        "components": {
            "schemas": schema["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def pages(operations: Sequence[Operation]) -> dict[str, tuple[str, bytes]]:
    """``/openapi.json`` and ``/docs``: media type and content of each."""
    told = specification(operations)
    return {
        "/openapi.json": ("application/json", json.dumps(told).encode()),
        "/docs": ("text/html", "".join(_page(told)).encode()),
    }


def _page(told: Mapping[str, Any]) -> Iterator[str]:
    schemas = told["components"]["schemas"]
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
    yield f"<h1>{_TITLE}</h1><p>For programs: <a href='/openapi.json'>openapi.json</a>. Every answer but 200 has the body "
    yield "<code>{&quot;error&quot;: {&quot;code&quot;: …, &quot;message&quot;: …}}</code>.</p>"
    for path, methods in told["paths"].items():
        for method, one in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(one['summary'])}</p>"
            if "requestBody" not in one:
                continue
            asked = schemas[_name(one["requestBody"])]
            yield f"<pre>{escape(_curl(path, asked))}</pre>"
            yield from _table("Request", asked)
            yield from _table("Answer", schemas[_name(one["responses"]["200"])])
    parts = sorted(schemas.keys() - _shown(told))
    for name in parts:
        yield f"<h2 id='{escape(name)}'>{escape(name)}</h2><p>{_text(schemas[name].get('description', ''))}</p>"
        yield from _table("Part", schemas[name])
    yield "</main></body></html>"


def _shown(told: Mapping[str, Any]) -> set[str]:
    posts = [methods["post"] for methods in told["paths"].values() if "post" in methods]
    return {_name(one["requestBody"]) for one in posts} | {_name(one["responses"]["200"]) for one in posts}


def _name(body: Mapping[str, Any]) -> str:
    return str(body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2])


def _curl(path: str, asked: Mapping[str, Any]) -> str:
    needed = [*asked.get("required", []), *(name for name in ("k", "scope") if name in asked["properties"])]
    body = json.dumps({name: _SAMPLES[name] for name in needed}, ensure_ascii=False)
    return f"curl -H \"Authorization: Bearer $TOKEN\" --json '{body}' http://127.0.0.1:50062{path}"


def _table(title: str, schema: Mapping[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", []))
    yield f"<table><caption>{title}</caption><thead><tr><th>field</th><th>type</th><th>meaning</th></tr></thead><tbody>"
    for name, field in schema["properties"].items():
        needed = " (needed)" if title == "Request" and name in required else ""
        cells = (f"<code>{escape(name)}</code>{needed}", _type(field), _text(field.get("description", "")))
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table>"


def _text(description: str) -> str:
    """HTML of a docstring, whose names in code stand between double backticks."""
    return re.sub(r"``(.+?)``", r"<code>\1</code>", escape(description))


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = escape(field["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return " or ".join(f"<code>{escape(str(one))}</code>" for one in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return escape(str(field.get("type", "")))
