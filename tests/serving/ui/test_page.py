"""The workbench in a browser, against a real server: its views, keys, hostile texts, phones, both themes, axe."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondpass.evaluation.judging import Judgments
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.keys import Key, Keys, key_digest
from secondpass.serving.models import Served
from secondpass.serving.server import Limits, Server, Workbench
from serving.running import running, served
from serving.ui.bench_of import HOSTILE, server_of, written
from tiny import tiny_split

SEARCH = "/ui/#/search?q=the+list"
PHONE = {"width": 375, "height": 740}


@pytest.fixture(scope="module")
def one(tiny: Path, cache: Path) -> CrossEncoder:
    return CrossEncoder(tiny, profile="exact", threads=2, cache_dir=cache)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return written(tmp_path)


@pytest.fixture
def url(one: CrossEncoder, bench: Workbench) -> Iterator[str]:
    with running(server_of(one, bench)) as base:
        yield base


def asked(page: Any, path: str = "/v1/search") -> list[dict[str, Any]]:
    """Bodies of what the page asks for from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith(path) and request.method == "POST":
            bodies.append(json.loads(request.post_data))

    page.on("request", note)
    return bodies


def harmless(page: Any) -> bool:
    """Whether no text became markup or script."""
    return bool(
        page.evaluate("window.hurt === undefined && !document.querySelector('main img, dialog img, main script')")
    )


def until(page: Any, done: Callable[[], bool]) -> None:
    """Waits, with the page's events going on, until something holds."""
    for _ in range(400):
        if done():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it never came")


# search


def test_before_and_after_stand_side_by_side_with_lines_between(page: Any, url: str) -> None:
    page.goto(url + SEARCH)
    page.wait_for_selector(".after .row")
    answer = httpx.post(f"{url}/v1/search", json={"query": "the list", "top_k": 20, "depth": 20}).json()
    results = answer["results"]
    titles = [one["title"] for one in results]
    assert page.locator(".after .row .words > b").all_text_contents() == titles
    before = [one["title"] for one in sorted(results, key=lambda one: one["first_rank"])]
    assert page.locator(".before .row .words > b").all_text_contents() == before
    kinds = [one["first_rank"] - place for place, one in enumerate(results, 1)]
    for name, expected in (("up", [k > 0 for k in kinds]), ("down", [k < 0 for k in kinds])):
        assert page.locator(f".lines path.{name}").count() == sum(expected)
    # each line goes from the row before to the row after
    row = page.locator(".after li").first.bounding_box()["height"]
    for place, one in enumerate(results[:4]):
        drawn = page.locator(".lines path").nth(place).get_attribute("d")
        y = [float(part) for part in re.findall(r"[\d.]+", drawn)]
        assert y[1] == pytest.approx((one["first_rank"] - 0.5) * row, abs=1.5)
        assert y[-1] == pytest.approx((place + 0.5) * row, abs=1.5)
    summary = page.locator(".summary").text_content()
    assert "20 candidates" in summary
    assert f"{sum(k != 0 for k in kinds)} moved" in summary
    steps = page.locator(".waterfall th").all_text_contents()
    assert steps[2] == "bm25"
    assert page.locator(".waterfall .bar i").count() == 5


def test_controls_ask_again_and_the_address_holds_them(page: Any, url: str, browser: Any) -> None:
    page.goto(url + SEARCH)
    page.wait_for_selector(".after .row")
    bodies = asked(page)
    page.locator("#depth").fill("1")  # the second stop: 10
    page.wait_for_function("() => document.querySelectorAll('.after .row').length === 10")
    page.locator("#time").fill("0")  # no time at all
    page.wait_for_selector(".after .row.unscored")
    assert bodies[-1] == {"query": "the list", "top_k": 10, "depth": 10, "model": "tiny", "deadline_ms": 0}
    assert "10 not: deadline" in page.locator(".summary").text_content()
    assert "time was up" in page.locator("ul.notes").text_content()
    assert page.locator(".lines .same").count() == 10  # as the first stage had it
    assert not page.locator("#exits").is_visible()  # this model has none
    link = page.url
    assert "depth=10" in link
    other = browser.new_page()
    other.goto(link)
    other.wait_for_selector(".after .row.unscored")
    assert other.locator(".after .row").count() == 10
    assert other.locator("#query").input_value() == "the list"
    other.close()


def test_what_the_server_is_set_to_is_what_the_page_begins_with(page: Any, one: CrossEncoder, bench: Workbench) -> None:
    with running(server_of(one, bench, depth=17, limits=Limits(deadline=1.23))) as base:
        bodies = asked(page)
        page.goto(base + SEARCH)
        page.wait_for_selector(".after .row")
        assert page.locator(".control").all_inner_texts()[1:3] == ["Depth 17", "Time 1,230 ms"]
        page.locator("#time").press("End")  # no limit, whatever the server's
        page.wait_for_function("() => location.hash.includes('time=none')")
        until(page, lambda: len(bodies) > 1)
    assert [(body["depth"], body["deadline_ms"]) for body in bodies] == [(17, 1230), (17, 600_000)]


def test_the_latest_answer_wins(page: Any, url: str) -> None:
    page.goto(f"{url}/ui/")
    held, ended = threading.Event(), list[str]()
    page.on("requestfailed", lambda request: ended.append(json.loads(request.post_data)["query"]))

    def slow(route: Any) -> None:
        body = json.loads(route.request.post_data)
        if body["query"] == "river":
            held.set()
            page.wait_for_timeout(700)
        try:
            route.continue_()
        except Exception as error:
            assert "abort" in str(error).lower() or "closed" in str(error).lower() or "handled" in str(error).lower()  # noqa: PT017

    page.route("**/v1/search", slow)
    page.fill("#query", "river")
    until(page, held.is_set)
    page.fill("#query", "snake")
    page.wait_for_selector(".after .row")
    until(page, lambda: bool(ended))
    page.wait_for_timeout(900)  # what was held goes on, and must not be shown
    shown = page.locator(".after .row").all_text_contents()
    assert ended == ["river"]  # the server need not go on with it
    assert all("snake" in row or "<img" in row for row in shown)


def test_models_that_stop_early_have_a_control_for_it(page: Any, tmp_path: Path, cache: Path) -> None:
    split = CrossEncoder(tiny_split(tmp_path / "model"), profile="exact", threads=2, cache_dir=cache)
    with running(server_of(split, written(tmp_path))) as base:
        page.goto(f"{base}{SEARCH}&depth=30&exits=0.7")
        page.wait_for_selector(".after .row")
        assert page.locator("#exits").is_visible()
        assert "9 ended at layer 1 · 21 ended at layer 3" in page.locator(".summary").text_content()


def test_pasted_documents_are_reranked_without_an_index(page: Any, one: CrossEncoder) -> None:
    with running(served(one, workbench=Workbench())) as base:
        page.goto(f"{base}/ui/")
        page.get_by_text("This server has no index").wait_for()
        page.get_by_text("Try an example").click()
        page.wait_for_selector(".after .row")
        assert page.locator(".after .row").count() == 6
        lines = [{"text": HOSTILE, "title": "one", "id": "2"}, {"text": "a list", "score": 2}, {"text": "", "id": "2"}]
        page.fill("#pasted", "\n".join(json.dumps(line) for line in lines))
        page.wait_for_function("() => document.querySelectorAll('.after .row').length === 3")
        assert page.locator(".after .row.unscored").text_content().endswith("as before")
        assert "1 not: empty" in page.locator(".summary").text_content()
        assert page.locator(".lines path").count() == 3
        assert harmless(page)
        page.reload()
        page.wait_for_selector(".after .row")
        assert page.locator(".after .row").count() == 3  # the link has them
        page.fill("#pasted", "")
        page.wait_for_function("() => document.querySelector('.summary').textContent.includes('Paste documents')")


def test_a_heat_map_says_what_each_part_carries(page: Any, url: str, one: CrossEncoder) -> None:
    page.goto(f"{url}{SEARCH}&depth=200")
    page.wait_for_selector(".after .row")
    row = page.locator(".after .row", has_text="<img").first
    row.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .heat")
    text = page.locator("dialog .heat").text_content()
    assert text == one.text_of(
        next(doc for doc in documents() if doc.id == "evil")
    )  # all of it, emoji and tags as text
    assert harmless(page)
    body = {"query": "the list", "documents": [{"text": HOSTILE, "title": HOSTILE}], "model": "tiny"}
    found = httpx.post(f"{url}/v1/explain", json=body).json()["documents"][0]["explanation"]
    units = [unit for unit in found["units"] if unit["value"] is not None]
    strongest = max(units, key=lambda unit: abs(unit["value"]) / unit["words"])
    expected = found["text"][strongest["start"] : strongest["end"]].strip()
    kind = "for" if strongest["value"] > 0 else "against"
    assert page.locator(f"dialog .heat mark.{kind}-5").first.text_content() == expected
    assert "not verified" in page.locator("dialog .verdict").text_content()
    page.get_by_text("Verify it").click()
    page.locator("dialog .verdict:not(.not-verified)").wait_for()
    assert re.match(r"(verified|unverified): ", page.locator("dialog .verdict").text_content())
    page.get_by_text("above it").click()
    page.wait_for_function("() => document.querySelectorAll('dialog .heat').length === 2")
    assert "logits" in page.locator("dialog.sheet").text_content()
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('dialog.sheet')")


def documents() -> Any:
    from serving.ui.bench_of import DOCUMENTS

    return DOCUMENTS


def test_a_result_of_the_first_stage_is_explained_too(page: Any, url: str) -> None:
    page.goto(url + SEARCH)
    page.wait_for_selector(".after .row")
    row = page.locator(".before .row").nth(3)
    name = row.locator("b").text_content()
    row.click()
    page.wait_for_selector("dialog .heat")
    assert page.locator("#explained-title").text_content() == name
    assert ", before 4" in page.locator("dialog.sheet .facts").first.text_content()


def test_keys_go_through_the_results(page: Any, url: str) -> None:
    page.goto(url + SEARCH)
    page.wait_for_selector(".after .row")
    page.keyboard.press("Escape")
    page.locator("h1").first.evaluate("() => document.activeElement.blur()")
    for key, place in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('.after .row')].indexOf(document.activeElement)") == place
    page.keyboard.press("?")
    assert "the previous result" in page.locator("#shortcuts").text_content()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("?j")  # letters, where somebody types
    assert page.locator("#query").input_value().endswith("?j")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_selector("h1:text('Compare')")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_hundreds_of_long_candidates_stay_quick(page: Any, one: CrossEncoder) -> None:
    texts = "\n".join(json.dumps({"text": f"{number} " + "the list of a river " * 400}) for number in range(400))
    with running(served(one, workbench=Workbench())) as base:
        page.goto(f"{base}/ui/#/search?q=list&time=0&depth=500")
        page.wait_for_selector("#pasted")
        # as a paste does it; what types for us takes longer than the page
        page.locator("#pasted").evaluate("(at, text) => { at.value = text }", texts)
        page.locator("#pasted").dispatch_event("input")
        page.wait_for_function("() => document.querySelectorAll('.after .row').length === 400")
        assert page.evaluate("document.querySelectorAll('main *').length") < 12_000
        assert page.evaluate("document.querySelector('.columns').textContent.length") < 400_000  # beginnings, not texts
        assert "documents" not in page.url  # too long for a link


def test_errors_are_said_in_the_server_s_words(page: Any, one: CrossEncoder) -> None:
    server = served(one, workbench=Workbench(), limits=Limits(documents=3, characters=20))
    with running(server) as base:
        page.goto(f"{base}/ui/")
        page.fill("#query", "a")
        page.fill("#pasted", "\n\n".join(["a" * 5, "b" * 21]))
        page.wait_for_selector("[role=alert]")
        assert "21 characters; 20 are the most" in page.locator("[role=alert]").text_content()
    page.fill("#query", "b")
    page.wait_for_function("() => document.querySelector('[role=alert]')?.textContent.includes('does not answer')")


def test_a_key_is_asked_for_and_kept_for_the_tab(page: Any, one: CrossEncoder, bench: Workbench) -> None:
    keys = Keys([Key(key_digest("secret"), "somebody")])
    with running(server_of(one, bench, keys=keys, public=False)) as base:
        page.goto(base + SEARCH)
        page.wait_for_selector("#key[open]")
        page.fill("#key input", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key[open] [role=alert]")
        page.fill("#key input", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".after .row")
        assert page.evaluate("Object.keys(localStorage).every((name) => localStorage.getItem(name) !== 'secret')")
        assert "secret" not in page.url
        page.reload()
        page.wait_for_selector(".after .row")
        page.goto(f"{base}/ui/#/audits?name=audit.html")
        page.wait_for_selector("a[download='audit.html']")


def test_who_goes_through_the_views_quickly_sees_the_last(page: Any, url: str) -> None:
    page.goto(f"{url}/ui/")
    for _ in range(3):
        for view in ("live", "judge", "search", "audits", "compare"):
            page.evaluate("(view) => { location.hash = `#/${view}` }", view)
    page.wait_for_selector("tbody")
    page.wait_for_timeout(500)
    assert page.locator("h1").all_text_contents() == ["Compare"]


# live


def test_the_dashboard_shows_traffic_and_alarms_and_what_to_do(page: Any, url: str) -> None:
    for number in range(60):
        httpx.post(
            f"{url}/v1/rerank", json={"query": f"a {number}", "documents": ["list", "river"], "deadline_ms": 5000}
        )
    httpx.post(f"{url}/v1/rerank", json={"query": "a", "documents": ["list"], "deadline_ms": 0})
    httpx.post(f"{url}/v1/rerank", content=b"{")
    page.goto(f"{url}/ui/#/live")
    page.wait_for_selector(".alarm")
    tiles = page.locator(".tiles").text_content()
    assert "requests62" in tiles
    assert "with a deadline61" in tiles
    text = page.locator("main").text_content()
    assert "2 % cut short" in text
    assert "secondpass judge pool" in page.locator(".alarm pre").text_content()
    assert "score_top" in page.locator(".alarm").text_content()
    page.get_by_text("No log of requests").wait_for()  # and how to have one
    assert (
        page.get_by_role("region", name="Answers by status").text_content() == "statusanswers200answered61400not meant1"
    )
    page.wait_for_function("() => document.querySelectorAll('.chart path').length === 4")


def test_the_percentiles_are_those_of_the_buckets(page: Any, url: str) -> None:
    page.goto(f"{url}/ui/")
    script = """async () => {
      const { parsed, quantile } = await import('/ui/live.js');
      const found = parsed('# HELP a b\\na_total{x="q\\\\"}\\\\n,",le="+Inf"} 3\\nb 1.5e-3\\n');
      const ends = [[1, 10], [2, 20], [Infinity, 21]];
      return [[...found.keys()], found.get('a_total')[0].labels, found.get('b')[0].value,
        [0.5, 0.25, 0.99].map((one) => Object.values(quantile(one, ends)).map(String)), quantile(0.5, [[1, 0]])];
    }"""
    names, labels, value, quantiles, none = page.evaluate(script)
    assert (names, labels, value) == (["a_total", "b"], {"x": 'q"}\n,', "le": "+Inf"}, 0.0015)
    found = [[float(one) for one in row] for row in quantiles]  # about, and the ends of its bucket
    assert found[:2] == [pytest.approx([1.05, 1, 2]), pytest.approx([0.525, 0, 1])]
    assert found[2] == [float("inf"), 2, float("inf")]
    assert none is None


def test_without_log_or_profile_it_says_how_to_have_them(page: Any, one: CrossEncoder) -> None:
    with running(served(one, workbench=Workbench())) as base:
        for view, words in (
            (
                "live",
                (
                    "Drift is not watched",
                    "secondpass audit --collection my-collection --profile",
                    "Nothing was answered",
                ),
            ),
            ("judge", ("Nothing to judge here", "--sample 50 --pool pool")),
            ("audits", ("No folder of reports", "--json > reports/audit.json")),
            ("compare", ("No folder of reports", "secondpass compare")),
        ):
            page.goto(f"{base}/ui/#/{view}")
            page.wait_for_selector(".unset")
            for word in words:
                page.wait_for_function("(word) => document.querySelector('main').textContent.includes(word)", arg=word)


# judging


def test_documents_are_judged_with_keys_into_the_audit_s_store(page: Any, url: str, bench: Workbench) -> None:
    assert bench.pool is not None
    page.goto(f"{url}/ui/#/judge")
    page.fill("#judge", "ada")
    page.keyboard.press("Enter")

    def here(number: int) -> None:
        page.wait_for_function(
            "(n) => document.querySelector('.kicker')?.textContent.includes(n)", arg=f"{number} of 4"
        )

    here(0)
    store = Judgments.open(bench.pool)
    order = store.pool.pairs
    page.keyboard.press("9")  # no such grade
    page.keyboard.press("2")
    here(1)
    page.keyboard.press("u")
    here(0)
    assert Judgments.open(bench.pool).of_judge("ada") == {}
    page.keyboard.press("0")
    here(1)
    page.keyboard.press("n")
    page.wait_for_function("() => document.querySelector('.kicker').textContent.includes('query 2 of 2, document 1')")
    page.get_by_role("button", name="3 fully answers").click()
    here(2)
    assert Judgments.open(bench.pool).of_judge("ada") == {order[0]: 0, order[2]: 3}
    Judgments.open(bench.pool).add(*order[1], 1, "bob")
    page.keyboard.press("p")
    page.keyboard.press("p")
    page.keyboard.press("m")
    page.fill("dialog textarea", HOSTILE)
    page.get_by_role("button", name="Keep").click()
    page.wait_for_function("() => document.querySelector('main').textContent.includes('Note: 🐍 list <img')")
    assert harmless(page)
    page.reload()
    here(2)  # it goes on where it stopped
    page.keyboard.press("1")
    here(3)
    page.keyboard.press("1")
    page.get_by_text("Every document is judged").wait_for()
    assert len(Judgments.open(bench.pool).of_judge("ada")) == 4
    page.keyboard.press("u")
    here(3)


def test_what_is_not_shown_yet_is_not_graded(page: Any, url: str, bench: Workbench) -> None:
    assert bench.pool is not None
    second = Judgments.open(bench.pool).pool.queries[1].query_id
    held: list[Any] = []
    page.route(f"**/v1/judging/query*query_id={second}", lambda route: held.append(route))
    page.goto(f"{url}/ui/#/judge?judge=ada")
    page.wait_for_function("() => document.querySelector('.kicker')?.textContent.includes('0 of 4')")
    for key in ("n", "n", "3"):
        page.keyboard.press(key)
    until(page, lambda: bool(held))
    page.wait_for_timeout(300)
    held[0].continue_()
    page.wait_for_function("() => document.querySelector('.kicker').textContent.includes('query 2 of 2, document 1')")
    assert Judgments.open(bench.pool).of_judge("ada") == {}
    page.keyboard.press("3")
    page.wait_for_function("() => document.querySelector('.kicker').textContent.includes('1 of 4')")
    assert list(Judgments.open(bench.pool).of_judge("ada").values()) == [3]


# audits and comparisons


def test_audits_and_their_pages_can_be_read(page: Any, url: str, bench: Workbench) -> None:
    assert bench.reports is not None
    verdict = json.loads((bench.reports / "audit.json").read_text())
    page.goto(f"{url}/ui/#/audits")
    page.get_by_role("button", name="audit.json").click()
    page.wait_for_selector("#decision")
    assert page.locator("#decision").text_content() == verdict["decision"]
    text = page.locator("article").text_content()
    assert verdict["reason"] in text
    assert f"+{verdict['difference']:.3f}" in text
    assert "name=audit.json" in page.url
    assert harmless(page)
    page.get_by_role("button", name="audit.html").click()
    inside = page.frame_locator("iframe")
    assert inside.locator("h1").text_content() == verdict["decision"]
    apart = "() => { try { return parent.document.title } catch { return 'apart' } }"
    frame = page.frames[-1]
    assert frame.evaluate(apart) == "apart"


def test_systems_stand_side_by_side_with_intervals_and_licences(page: Any, url: str, bench: Workbench) -> None:
    assert bench.reports is not None
    board = json.loads((bench.reports / "compare.json").read_text())
    page.goto(f"{url}/ui/#/compare")
    page.wait_for_selector("table")
    rows = page.locator("tbody tr")
    assert rows.count() == len(board["rows"])
    for place, row in enumerate(board["rows"]):
        text = rows.nth(place).text_content()
        assert row["name"] in text
        assert f"{row['mean']:.3f}" in text
        assert (row["licence"] or "not known") in text
    low, high = (f"{end:+.3f}".replace("-", "−") for end in sorted(-end for end in board["pairs"][0]["interval"]))
    assert f"[{low}, {high}]" in rows.nth(1).text_content()
    assert page.locator("svg.whiskers .reach").count() == 2
    assert harmless(page)


# how it looks, and to whom


def _each(page: Any, url: str) -> Iterator[str]:
    """Every view with something in it."""
    for view, ready in (
        (SEARCH, ".after .row"),
        ("/ui/#/live", ".tiles"),
        ("/ui/#/judge?judge=ada", ".grades"),
        ("/ui/#/audits?name=audit.json", "#decision"),
        ("/ui/#/compare", "tbody"),
    ):
        page.goto(url + view)
        page.wait_for_selector(ready)
        yield view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, url: str, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe, which .ci/run installs").Axe()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()

    def holds(where: str) -> None:
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        told = [(one["id"], [node["html"][:160] for node in one["nodes"]][:3]) for one in found]
        assert not told, (where, scheme, told)

    for view in _each(page, url):
        holds(view)
        if view == SEARCH:
            page.locator(".after .row").first.click()
            page.wait_for_selector("dialog .heat")
            holds("an explanation")
            page.keyboard.press("Escape")
            page.keyboard.press("Escape")
            page.get_by_label("Keyboard shortcuts").click()
            holds("shortcuts")
            page.keyboard.press("Escape")
    context.close()


def test_a_phone_needs_no_scrolling_sideways(browser: Any, url: str) -> None:
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    for view in _each(page, url):
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], view
    page.goto(url + SEARCH)
    page.locator(".after .row").first.click()
    page.wait_for_selector("dialog .heat")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE["width"]
    context.close()


def test_the_keyboard_comes_everywhere_and_its_place_is_seen(page: Any, url: str) -> None:
    page.goto(f"{url}/ui/#/audits")
    page.wait_for_selector("table")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(2):
        page.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement)"
        assert page.evaluate(f"{style}.outlineStyle + parseFloat({style}.outlineWidth)") == "solid2"
    assert page.url.endswith("#/audits")


def test_a_server_that_is_not_well_says_so(page: Any, one: CrossEncoder) -> None:
    def broken() -> CrossEncoder:
        raise ValueError("no such weights")

    with running(
        Server([Served("a", lambda: one), Served("b", broken)], workbench=Workbench(), probe_every=0.1)
    ) as base:
        page.goto(f"{base}/ui/")
        page.wait_for_function("() => document.querySelector('#health').textContent === 'not ready'")
        assert "no such weights" in page.locator("#health").get_attribute("title")
