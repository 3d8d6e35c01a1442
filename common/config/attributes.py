"""Which attributes of items platforms agree to describe (the plan), and where a platform has them (its own configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, TypeAdapter, model_validator
from pydantic_core import CoreSchema, core_schema

from common.attributes import ALWAYS, AttributeKind
from common.config.base import FrozenModel

AttributeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
_MOST = 32
_SCORERS = {
    *("local", "shared", "anchored", "towers", "ranker", "linear", "attributes", "passport", "popularity", "demand"),
    *("profile", "texts", "blend", "id"),
}  # fmt: skip


def _not_always(named: dict[str, Any]) -> dict[str, Any]:
    for name in ALWAYS:
        if name in named:
            raise ValueError(
                f"{name}: is always among the attributes; leave it out here, and name its column at items.{name}_column"
            )
    if taken := sorted(_SCORERS.intersection(named)):
        raise ValueError(f"{taken[0]}: is what a scorer is called in explanations; choose another name")
    if len(named) > _MOST:
        raise ValueError(f"{len(named)} attributes; name at most {_MOST}")
    return named


_KINDS: TypeAdapter[dict[str, AttributeKind]] = TypeAdapter(
    Annotated[dict[AttributeName, AttributeKind], AfterValidator(_not_always)]
)


class AgreedAttributes(tuple[tuple[str, AttributeKind], ...]):
    """Name and kind of each attribute, in order of name: a mapping in files, and hashable as the rest of a plan is."""

    __slots__ = ()

    @property
    def kinds(self) -> dict[str, AttributeKind]:
        """Kind by name."""
        return dict(self)

    @classmethod
    def of(cls, named: Mapping[str, AttributeKind]) -> Self:
        """From a mapping."""
        return cls(sorted(named.items()))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls.of,
            core_schema.no_info_before_validator_function(
                lambda given: dict(given) if isinstance(given, cls) else given, _KINDS.core_schema
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )


class DescribeConfig(FrozenModel):
    """One attribute that this platform describes its items by. A kind alone (``maker: category``) is short for ``kind``."""

    kind: AttributeKind
    """category: one value (who made it); categories: several (topics); number; text: words that a text encoder reads; vector:
    an embedding of a picture, of sound. The plan says which kind it is for all."""
    column: Annotated[str, Field(min_length=1)] | None = None
    """Column of the items file; null: the attribute's own name. So what is ``maker`` in the plan may be ``author`` here."""
    separator: Annotated[str, Field(min_length=1, max_length=8)] = "|"
    """categories: between the values of a text."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: object) -> object:
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _separates(self) -> Self:
        if "separator" in self.model_fields_set and self.kind != "categories":
            raise ValueError(f"separator: is for kind: categories, and this is a {self.kind}")
        return self


class AttributeRule(FrozenModel):
    """Holds what a described attribute of an item must be; every part that is given must hold."""

    any_of: tuple[str, ...] = ()
    """category, categories: at least one of these values; letter case does not matter."""
    none_of: tuple[str, ...] = ()
    """category, categories: none of these values. An item of which nothing is told has none."""
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """number: the lowest. An item of which nothing is told does not pass."""
    at_most: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """number: the highest. An item of which nothing is told does not pass."""

    @property
    def of_values(self) -> bool:
        """Whether it speaks of values, not of a number."""
        return bool(self.any_of or self.none_of)

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        of_number = self.at_least is not None or self.at_most is not None
        if self.of_values == of_number:
            raise ValueError("give any_of or none_of, for categories; or at_least or at_most, for a number")
        return self


AttributeRules = dict[AttributeName, AttributeRule]
DescribedAttributes = Annotated[dict[AttributeName, DescribeConfig], AfterValidator(_not_always)]


def check_rules(rules: Mapping[str, AttributeRule], kinds: Mapping[str, AttributeKind], at: str, among: str) -> None:
    """Refuse a rule on an attribute that is not there, or whose kind it does not fit.

    Args:
        rules: by attribute.
        kinds: of the attributes that are there, besides title and genres.
        at: key path of ``rules``, for the message.
        among: key path of what says which attributes are there, for the message.

    Raises:
        ValueError: names the attribute, and how to mend it.
    """
    known = {name: kind for name, kind in {**ALWAYS, **kinds}.items() if kind not in ("text", "vector")}
    for name, rule in rules.items():
        if name not in known:
            raise ValueError(
                f"{at}.{name}: is none of the categories and numbers there ({', '.join(known)}); name it in {among}, "
                "or leave the rule out"
            )
        if rule.of_values == (known[name] == "number"):
            right = "at_least or at_most" if known[name] == "number" else "any_of or none_of"
            raise ValueError(f"{at}.{name}: is a {known[name]}; give {right}")


def check_described(describe: Mapping[str, DescribeConfig], agreed: Mapping[str, AttributeKind], at: str) -> None:
    """Refuse a description that the plan does not have, or has by another kind.

    Args:
        describe: ``catalogue.describe`` of a platform.
        agreed: ``plan.attributes``.
        at: key path of ``describe``, for the message.

    Raises:
        ValueError: names the attribute, and how to mend it.
    """
    for name, own in describe.items():
        if name not in agreed:
            known = ", ".join(agreed) or "none"
            raise ValueError(
                f"{at}.{name}: is none of the attributes that the platforms agreed on ({known}); add it to plan.attributes of "
                f"all of them, or map your column to one of these: {{NAME: {{kind: …, column: {own.column or name}}}}}"
            )
        if own.kind != agreed[name]:
            raise ValueError(
                f"{at}.{name}: is a {own.kind} here and a {agreed[name]} in plan.attributes; set both alike"
            )
