"""The platform's own model: built, judged, stored."""

from typing import TYPE_CHECKING

from common.public_names import public_names

if TYPE_CHECKING:
    from client.personalization.platform_model import PlatformModel
    from client.personalization.store import PlatformStore

__all__ = ["PlatformModel", "PlatformStore"]

__getattr__ = public_names(
    __name__,
    {"PlatformModel": "client.personalization.platform_model", "PlatformStore": "client.personalization.store"},
)
