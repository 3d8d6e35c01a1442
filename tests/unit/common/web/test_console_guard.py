"""Who a console lets in: tokens, foreign hosts, foreign pages, forms without the session's secret, and what a failure says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from logging import getLogger
from typing import Any

import httpx
import pytest

from common.errors import ConfigError, DataError
from common.web.console.app import Console, Place, Redirect, Shown, Visit
from common.web.console.serving import ConsoleServer

SECRET = "patient-4711"
PACKAGE = "server.console"


class Pages:
    """A page that fails in every way, and counts what its form did."""

    def __init__(self) -> None:
        self.done: list[Visit] = []

    def view(self, visit: Visit) -> Shown:
        if "crash" in visit.query:
            raise ValueError(f"cannot convert {SECRET}")
        if "wrong" in visit.query:
            raise DataError("views.csv, line 3: no item")
        return Shown(template="refused.html", content={"reason": "404"})

    def act(self, visit: Visit) -> Redirect:
        self.done.append(visit)
        return Redirect(path="/")


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[ConsoleServer]:
    place = Place(path="/", label="p_overview", view=pages.view, action=pages.act)
    with ConsoleServer(lambda port: Console(PACKAGE, "films", [place], port=port)) as running:
        yield running


@pytest.fixture
def browser(server: ConsoleServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, headers={"origin": server.address.rstrip("/")}) as client:
        yield client


def enter(browser: httpx.Client, server: ConsoleServer) -> str:
    """Enter; the session's own secret."""
    answer = browser.post("/enter", data={"token": server.console.token})
    assert answer.status_code == 303
    found = re.search(r'name="csrf" value="([^"]+)"', browser.get("/").text)
    assert found is not None
    return found[1]


def test_without_the_token_nothing_is_shown_or_done(browser: httpx.Client, server: ConsoleServer, pages: Pages) -> None:
    assert browser.get("/").headers["location"] == "/enter"
    assert browser.post("/", data={"csrf": ""}).headers["location"] == "/enter"
    assert browser.post("/enter", data={"token": server.console.token[:-1]}).status_code == 403
    assert browser.post("/enter", data={"other": "1"}).status_code == 403
    assert "set-cookie" not in browser.get("/enter").headers
    assert pages.done == []


def test_the_token_and_the_session_stay_out_of_pages(browser: httpx.Client, server: ConsoleServer) -> None:
    enter(browser, server)
    page = browser.get("/")
    assert server.console.token not in page.text + str(page.headers)
    (cookie,) = browser.cookies.jar
    assert cookie.value not in page.text
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
def test_a_foreign_name_that_leads_here_is_refused(browser: httpx.Client, server: ConsoleServer, host: str) -> None:
    enter(browser, server)
    answer = browser.get("/", headers={"host": host})
    assert answer.status_code in (400, 421)
    assert "films" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_page_does_nothing(
    browser: httpx.Client, server: ConsoleServer, pages: Pages, headers: dict[str, str]
) -> None:
    csrf = enter(browser, server)
    assert browser.post("/", data={"csrf": csrf}, headers=headers).status_code == 403
    assert pages.done == []


def test_a_form_needs_the_secret_of_its_own_session(browser: httpx.Client, server: ConsoleServer, pages: Pages) -> None:
    csrf = enter(browser, server)
    with httpx.Client(base_url=browser.base_url, headers=browser.headers) as other:
        assert enter(other, server) != csrf
        assert other.post("/", data={"csrf": csrf}).status_code == 403
    for given in ({"other": "1"}, {"csrf": ""}, {"csrf": csrf[:-1]}):
        assert browser.post("/", data=given).status_code == 403
    assert pages.done == []
    assert browser.post("/", data={"csrf": csrf, "x": "1"}).status_code == 303
    assert [visit.form["x"] for visit in pages.done] == ["1"]


def test_what_is_no_small_form_is_refused(browser: httpx.Client, server: ConsoleServer, pages: Pages) -> None:
    csrf = enter(browser, server)
    assert browser.post("/", json={"csrf": csrf}).status_code == 415
    assert browser.post("/", data={"csrf": csrf, "x": "y" * (1 << 17)}).status_code == 413
    assert browser.post("/", data={f"x{field}": "" for field in range(50)}).status_code == 400
    assert browser.put("/").status_code in (403, 405)
    assert pages.done == []


def test_leaving_ends_the_session(browser: httpx.Client, server: ConsoleServer) -> None:
    csrf = enter(browser, server)
    assert browser.post("/leave", data={"csrf": "no"}).status_code == 403
    assert browser.post("/leave", data={"csrf": csrf}).status_code == 303
    assert browser.get("/").headers["location"] == "/enter"


def test_every_answer_says_what_a_browser_may_do(browser: httpx.Client, server: ConsoleServer) -> None:
    enter(browser, server)
    for path in ("/", "/enter", "/style.css", "/live.js", "/nothing", "/?crash=1"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers
    assert browser.get("/", headers={"host": "evil.example"}).headers["content-security-policy"]


def test_a_failure_says_nothing_that_crossfed_did_not(
    browser: httpx.Client, server: ConsoleServer, caplog: pytest.LogCaptureFixture
) -> None:
    enter(browser, server)
    with caplog.at_level(0, logger=getLogger().name):
        crashed = browser.get("/?crash=1")
    assert crashed.status_code == 500
    assert SECRET not in crashed.text
    assert SECRET not in caplog.text
    assert "crash=1" not in "".join(
        record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")
    )
    assert "a page of the console failed with ValueError" in caplog.text
    told = browser.get("/?wrong=1")
    assert told.status_code == 409
    assert "views.csv, line 3: no item" in told.text


def test_pages_come_in_the_browsers_language_or_the_chosen_one(browser: httpx.Client) -> None:
    chinese = {"accept-language": "zh-CN,zh;q=0.9"}
    assert '<html lang="zh">' in browser.get("/enter", headers=chinese).text
    assert '<html lang="en">' in browser.get("/enter").text
    answer = browser.post("/language", data={"language": "en", "back": "//evil.example/"}, headers=chinese)
    assert answer.headers["location"] == "/"
    assert '<html lang="en">' in browser.get("/enter", headers=chinese).text
    assert browser.post("/language", data={"language": "fr"}).status_code == 400


def test_it_listens_on_loopback_alone(server: ConsoleServer) -> None:
    assert server.address == f"http://127.0.0.1:{server.port}/"


def test_a_taken_port_is_named(server: ConsoleServer) -> None:
    def never(port: int) -> Any:
        raise AssertionError(port)

    with pytest.raises(ConfigError, match=f"--port {server.port}: .* is another console running"):
        ConsoleServer(never, server.port)
