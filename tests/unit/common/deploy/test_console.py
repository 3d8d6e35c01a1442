"""Texts of users and other platforms are shown as text, whatever is in them, by every table and every command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import unicodedata
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType
from rich.progress import Progress
from typer.testing import CliRunner

from client.cli.ask import explanation_table, recommendation_table
from client.cli.main import app
from client.deploy.preview import preview_table
from client.personalization.store import PlatformStore
from client.recommend.answers import Contribution, Explanation, Recommendation
from common.deploy.console import FieldColumn, PlainColumn, PlainConsole, PlainTable, say, say_json, styled
from common.deploy.doctor import Finding, print_findings
from common.visible import visible
from server.cli import app as server_app
from server.cli import status_table
from server.deploy.runs import RunStatus
from simulations.audit.membership import MembershipReport
from simulations.audit.tables import membership_table
from simulations.engine.random_model import random_platform_model
from simulations.report.terminal import ConsoleObserver
from simulations.studies.tune import Tried, _table
from simulations.studies.tune_display import TrialDisplay

ROOT = Path(__file__).parents[4]
NASTY = (
    "Tool [/b] set", "[rec]", "[red]scene", "[bold", "a]b[", r"\[b]", "[link=file:///x]y[/link]", "[/]", "[@click=f]z",
    "shop:book:7", "Blade :star: Runner", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "two\nlines", "a\r\nb",
    "tab\there", "\u202egnp.exe", "\u2066x\u2069", "soft\u00adhyphen", "\u200bzero", "lone \ud800", "\u2028", "{0}", "%s %d",
    "{task.description}", "日本語 タイトル", "عنوان", "\U0001f469\u200d\U0001f467", "",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.sampled_from(NASTY).flatmap(lambda a: st.just(a * 2))
)
# Cc: control, Cs: surrogates, Zl and Zp: separators of lines; and the letters that turn the direction.
HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def shown(table: RenderableType, width: int = 300) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=width).print(table)
    return file.getvalue()


def check(output: str, *parts: str) -> None:
    """Every part is in the output, written out, and nothing in the output is hidden or a command."""
    assert_nothing_hidden(output)
    for part in parts:
        assert squeezed(written_out(part)) in squeezed(output), part


def squeezed(text: str) -> str:
    """Without blanks and line feeds, also such as are written out: tables fold, messages keep their lines."""
    return "".join(text.split()).replace(r"\n", "")


def assert_nothing_hidden(output: str) -> None:
    for character in output.replace("\n", ""):
        assert unicodedata.category(character) not in HIDDEN, repr(character)
        assert unicodedata.bidirectional(character) not in BIDI, repr(character)


def written_out(text: str) -> str:
    """As Python would write it, for what is not to be seen: by Unicode's categories, where visible() has a table."""
    seen = {"\u200c", "\u200d", *map(chr, range(0x600, 0x606)), "\u06dd", "\u070f", "\u0890", "\u0891", "\u08e2"}
    seen |= {"\U000110bd", "\U000110cd"}  # signs that go with numbers
    hidden = HIDDEN | {"Cf"}
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in hidden and c not in seen else c for c in text)


@given(texts)
def test_what_is_hidden_is_written_out(text: str) -> None:
    assert visible(text) == written_out(text)
    assert_nothing_hidden(visible(text))
    visible(text).encode()
    assert visible(visible(text)) == visible(text)


def test_words_of_any_script_stay_as_they_are() -> None:
    for text in ("naïve café", "日本語 タイトル", "عنوان می‌خواهم", "👩‍👩‍👧 हिन्दी", "Ω ≤ ε × 2", "a b"):
        assert visible(text) == text


@given(texts)
def test_lines_and_json_are_what_was_given(text: str) -> None:
    file = io.StringIO()
    with redirect_stdout(file):
        say_json({"title": text})
        say(text)
    line, _, rest = file.getvalue().partition("\n")
    assert json.loads(line) == {"title": text}
    assert_nothing_hidden(line)
    assert_nothing_hidden(rest)


@given(texts, st.integers(20, 120))
def test_a_cell_is_one_text_and_whole_at_any_width(text: str, width: int) -> None:
    table = PlainTable("key", title="t")
    table.add_row(text)
    check(shown(table, width), text)


@given(texts, texts, texts, texts)
def test_recommendations_are_texts(key: str, title: str, genre: str, platform: str) -> None:
    listed = [Recommendation(key=key, title=title, genres=(genre, genre), score=0.5, platforms=(platform,))]
    check(shown(recommendation_table(listed)), key, title, genre, platform)


@given(texts, texts, texts)
def test_explanations_are_texts(key: str, title: str, name: str) -> None:
    why = Explanation(
        key=key,
        title=title,
        score=1.0,
        decided_by=name,
        contributions=(Contribution(key, title, 0.5),),
        others=0.1,
        item_bias=0.2,
        popularity=0.1,
        models={},
        attributes={name: 0.1},
    )
    check(shown(explanation_table(why)), key, title, name)


@given(texts, texts, texts)
def test_the_status_of_a_run_is_text(name: str, code: str, error: str) -> None:
    answers = {name: {"kind": code, "round": 1, "code": code, "time": 0.0}}
    run = RunStatus(name="run", state="failed", error=error, answers=answers)
    check(shown(status_table(run, [name])), name, code, error)


@given(texts, texts)
def test_findings_of_a_doctor_are_texts(what: str, detail: str) -> None:
    for as_json in (False, True):
        file = io.StringIO()
        with redirect_stdout(file):
            assert print_findings([Finding("note", what, detail)], as_json=as_json) == 0
        if as_json:
            assert json.loads(file.getvalue())[0]["what"] == what
        else:
            check(file.getvalue(), what, detail)


@given(texts, texts)
def test_what_would_be_sent_is_text(kind: str, array: str) -> None:
    row = {"kind": kind, "array": array, "dtype": "int64", "shape": [1], "bytes": 8, "times": 1, "noise": array}
    check(shown(preview_table([row | {"from_interactions": True}])), kind, array)


@given(texts, texts)
def test_tried_settings_are_texts(key: str, value: str) -> None:
    tried = Tried(number=0, settings={key: value}, value=0.5, platforms={}, seconds=1.0)
    table = _table(key, tried, [tried], {key: None})  # type: ignore[dict-item]
    check(shown(table), value)


@given(texts)
def test_an_audits_levels_are_texts(level: str) -> None:
    report = MembershipReport(members=1, auc={level: 0.5}, swapped={level: 0.5})
    check(shown(membership_table(report)))


@given(texts, texts)
def test_progress_shows_texts(text: str, detail: str) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=400)
    with Progress(PlainColumn("{task.description}"), FieldColumn("detail"), console=console) as progress:
        progress.add_task(text, total=1, detail=styled(detail))
    assert_nothing_hidden(file.getvalue())
    check(file.getvalue(), text, detail)


@given(texts, texts)
def test_a_simulations_progress_shows_texts(stage: str, platform: str) -> None:
    file = io.StringIO()
    with ConsoleObserver(PlainConsole(file=file, width=400), 2) as observer:
        observer.on_stage(stage)
        observer.on_reply(1, "statistics", platform, platform, 8)
    assert_nothing_hidden(file.getvalue())
    check(file.getvalue(), stage)


@given(texts)
def test_trials_and_their_errors_are_texts(error: str) -> None:
    file = io.StringIO()
    with TrialDisplay(PlainConsole(file=file, width=400), 2) as display:
        display.on_stage(error)
        display.on_trial(Tried(number=0, settings={}, value=None, platforms={}, seconds=1.0, error=error))
    check(file.getvalue(), error)


@given(texts)
def test_stages_beside_a_spinner_are_texts(text: str) -> None:
    with PlainConsole(file=io.StringIO()).stages() as tell:
        tell(text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose items have the nastiest titles, keys and genres, of this platform and of the other."""
    model = random_platform_model(np.random.default_rng(3))
    nasty = [text.encode("utf-8", "ignore").decode() or "-" for text in NASTY]

    def renamed(described: Any) -> Any:
        count = len(described.keys)
        titles = tuple(nasty[place % len(nasty)] for place in range(count))
        return type(described)(keys=described.keys, titles=titles, genres=tuple((title,) for title in titles))

    place = tmp_path_factory.mktemp("nasty") / "store"
    changed = {"vocabulary": renamed(model.vocabulary), "own": renamed(model.own)}
    PlatformStore(place).commit(replace(model, **changed))
    return place


@pytest.mark.parametrize(
    "question",
    [
        ["recommend", "--user", "user-1", "-k", "60"],
        ["similar", "--item", "imdb:0000003", "-k", "60"],
        ["explain", "--user", "user-1", "--item", "imdb:0000003"],
    ],
    ids=lambda question: question[0],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["table", "json"])
def test_commands_print_nasty_titles(store: Path, question: list[str], as_json: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*question, "--store", str(store), *as_json], env={"COLUMNS": "250"})
    assert done.exit_code == 0, done.output
    assert_nothing_hidden(done.output)
    if question[0] != "explain" and not as_json:
        check(done.output, "Tool [/b] set", "Blade :star: Runner", "[rec]", "\x1b[2J\x1b[31mred")


@pytest.mark.parametrize("command", [app, server_app], ids=["client", "server"])
@pytest.mark.parametrize("text", ["[/b]", "[bold]x", ":star:"])
def test_usage_errors_name_what_was_given(command: Any, text: str) -> None:
    done = CliRunner().invoke(command, [text], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert text in done.output
    done = CliRunner().invoke(command, ["doctor", "--config", f"nowhere/{text}.yaml"], env={"COLUMNS": "200"})
    assert done.exit_code == 2


def test_errors_are_texts(tmp_path: Path) -> None:
    code = "from common.deploy.cli import run_app\nfrom common.errors import DataError\n" + (
        "def fail(): raise DataError('title [/b] :star: \\x1b[31m')\nrun_app(fail)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "error: title [/b] :star: \\x1b[31m\n")


@pytest.mark.parametrize(
    "line",
    [
        "from rich.console import Console",
        "import rich.table",
        "from rich.table import Table",
        "from rich import print",
        "from rich.text import Text",
        "from rich.progress import TextColumn",
        "from rich.logging import RichHandler",
        "import typer\ntyper.echo('x')",
        "import rich\nrich.print('x')",
    ],
)
def test_modules_cannot_print_by_another_way(line: str) -> None:
    """Ruff refuses it; ``make check`` runs ruff over all modules."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", "client/new.py", "-"]
    done = subprocess.run(command, input=f"{line}\n", capture_output=True, text=True, check=False, cwd=ROOT)
    assert "TID251" in done.stdout, done.stdout + done.stderr
