"""A console's pages over HTTP: who may see them, what a form may do, and what a failure may say.

A console listens on loopback. That alone protects nothing: any page of the web may make the operator's browser send requests
there, and a name of somebody else's may be pointed at 127.0.0.1. So

1. the ``Host`` must be the console's own (a foreign name that leads here is refused);
2. whoever has not given the token, which the terminal showed, sees the page that asks for it and nothing else; the token is
   never part of an address, and the session is a cookie that other sites cannot make the browser send;
3. a form counts only with the session's own secret in it, and from a page of the same origin;
4. pages may load their style and script from here, and nothing from anywhere; nothing is kept in the browser's cache.

Pages are made on the server and work without the script, which only brings a page's live part up to date.
"""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from logging import getLogger
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from common.errors import CrossfedError
from common.web.console.guard import BrowserGuard
from common.web.pages import SHARED, Pages, stylesheet
from common.web.texts import LANGUAGES, Language, accepted_language, language_of

_log = getLogger(__name__)
_MOST_BODY_BYTES: Final = 1 << 16
_MOST_FIELDS: Final = 20
_LANGUAGE: Final = "crossfed-language"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Holds what a page is asked with.

    Attributes:
        query: of the address; nothing of a person is ever in it.
        form: of a form that was sent; empty for a page that is only looked at.
    """

    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page to show.

    Attributes:
        template: its file's name.
        content: what the template shows.
    """

    template: str
    content: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """Another page to go to, after something was done."""

    path: str


View = Callable[[Visit], Shown | Redirect]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One page of a console.

    Attributes:
        path: ``/runs``.
        label: key of the text that the navigation shows.
        view: makes it.
        action: what its form does; None: it has none.
    """

    path: str
    label: str
    view: View
    action: View | None = None


class Console:
    """The pages of one role.

    Args:
        package: with the role's ``templates/`` and ``texts.yaml``.
        name: of the platform or federation, shown on every page.
        places: the pages, the first at ``/``.
        port: at which it is served.
        token: what whoever enters must know; a new one unless given.
    """

    def __init__(self, package: str, name: str, places: list[Place], *, port: int, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self._pages = Pages(package, f"{SHARED}.console")
        self._name, self._places = name, places
        self._sessions: dict[str, str] = {}
        # Cookies know no ports: each console of this machine has its own.
        self._cookie = f"crossfed-session-{port}"
        routes = [
            Route("/enter", self._safely(self._enter), methods=["GET", "POST"]),
            Route("/leave", self._safely(self._leave), methods=["POST"]),
            Route("/language", self._safely(self._choose_language), methods=["POST"]),
            Route("/style.css", _file("text/css", stylesheet()), methods=["GET"]),
            Route("/live.js", _file("text/javascript", _script()), methods=["GET"]),
        ]
        for place in places:
            methods = ["GET", "POST"] if place.action else ["GET"]
            routes.append(Route(place.path, self._safely(self._endpoint(place)), methods=methods))
        inner = Starlette(routes=routes, exception_handlers={HTTPException: self._refused})
        self.app = BrowserGuard(inner, port=port)

    def _endpoint(self, place: Place) -> Endpoint:
        async def answer(request: Request) -> Response:
            csrf = self._session(request)
            if csrf is None:
                return RedirectResponse("/enter", 303)
            try:
                if request.method == "POST" and place.action is not None:
                    form = await _form(request)
                    _check_secret(form, csrf)
                    shown = await run_in_threadpool(place.action, Visit(form=form))
                else:
                    shown = await run_in_threadpool(place.view, Visit(query=dict(request.query_params)))
            except CrossfedError as error:
                # Of crossfed's own errors no message holds a user, an item or a row of data.
                return self._page(request, "failed.html", 409, place=place, problem=str(error))
            if isinstance(shown, Redirect):
                return RedirectResponse(shown.path, 303)
            return self._page(request, shown.template, 200, place=place, **shown.content)

        return answer

    async def _enter(self, request: Request) -> Response:
        if request.method == "GET":
            return self._page(request, "enter.html", 200, wrong=False)
        given = (await _form(request)).get("token", "").strip()
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return self._page(request, "enter.html", 403, wrong=True)
        session = secrets.token_urlsafe(24)
        self._sessions[session] = secrets.token_urlsafe(24)
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, session, httponly=True, samesite="strict", path="/")
        return response

    async def _leave(self, request: Request) -> Response:
        if (csrf := self._session(request)) is not None:
            _check_secret(await _form(request), csrf)
            del self._sessions[request.cookies[self._cookie]]
        return RedirectResponse("/enter", 303)

    async def _choose_language(self, request: Request) -> Response:
        # Changes nothing but the visitor's own cookie, so that it may be asked for before one has entered.
        form = await _form(request)
        back = next((place.path for place in self._places if place.path == form.get("back")), "/")
        response = RedirectResponse(back, 303)
        try:
            response.set_cookie(_LANGUAGE, language_of(form.get("language", "")), httponly=True, samesite="strict")
        except CrossfedError as error:
            raise HTTPException(400) from error
        return response

    def _session(self, request: Request) -> str | None:
        """The session's own secret, or None for whoever has not entered."""
        return self._sessions.get(request.cookies.get(self._cookie, ""))

    def _page(
        self, request: Request, template: str, status: int, place: Place | None = None, **content: Any
    ) -> Response:
        csrf = self._session(request)
        frame = {
            "name": self._name, "places": self._places if csrf else [], "here": place, "csrf": csrf or "",
        }  # fmt: skip
        return HTMLResponse(self._pages.render(template, _language(request), **(frame | content)), status)

    def _refused(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return self._page(request, "refused.html", status, reason=str(status))

    def _safely(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint whose unexpected failures end here: what answers it would log an exception's text."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except HTTPException:
                raise
            except Exception as error:
                # Of an exception that crossfed did not raise on purpose the text may hold values of a user's data.
                frames = traceback.extract_tb(error.__traceback__)
                where = " > ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
                _log.error("a page of the console failed with %s at %s", type(error).__name__, where)
                return self._page(request, "refused.html", 500, reason="500")

        return answer


def _language(request: Request) -> Language:
    chosen = request.cookies.get(_LANGUAGE, "")
    return language_of(chosen) if chosen in LANGUAGES else accepted_language(request.headers.get("accept-language", ""))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        HTTPException: it is no form, or too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BODY_BYTES:
            raise HTTPException(413)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise HTTPException(400) from error
    return {name: values[-1] for name, values in fields.items()}


def _check_secret(form: Mapping[str, str], csrf: str) -> None:
    if not secrets.compare_digest(form.get("csrf", "").encode(), csrf.encode()):
        raise HTTPException(403)


def _file(kind: str, text: str) -> Callable[[Request], Response]:
    return lambda request: PlainTextResponse(text, media_type=kind)


def _script() -> str:
    return (files(SHARED) / "static" / "live.js").read_text(encoding="utf-8")
