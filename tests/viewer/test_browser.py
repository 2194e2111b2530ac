"""Pages of runs in a real browser, without a network: ``make test-browser``."""

from contextlib import contextmanager

import pytest
from helpers.pages import HOSTILE, running

from implicit_em import explore
from implicit_em.viewer.exploring import served

pytestmark = pytest.mark.browser
CHROMIUM = "/usr/bin/chromium"
QUIET = ("sandbox", "first-run", "background-networking", "component-update", "sync")
"""What Chromium is told to leave: it would ask hosts of its maker at every start."""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [f"--no-{name}" for name in QUIET[:2]] + [f"--disable-{name}" for name in QUIET[2:]]
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--disable-gpu", "--disable-quic"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page, by default without a network; an error in its console fails the test."""
    said = []

    def opened(path, place="", offline=True, **options):
        context = browser.new_context(offline=offline, **options)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.goto(f"{path if '://' in str(path) else f'file://{path}'}#{place}")
        page.wait_for_selector("h1")
        return page

    yield opened
    assert said == []


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    """The pages of runs, by name."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [trained("images", "model=topk", "model.l0=2", f"seed={seed}") for seed in (1, 2)]
    return {
        "texts": explore([trained("texts")], folder / "texts"),
        "images": explore([trained("images")], folder / "images"),
        "vectors": explore([trained("vectors")], folder / "vectors"),
        "two": explore(runs, folder / "two"),
    }


KINDS = ("texts", "images", "vectors", "two")


def features(page):
    """Return the numbers of the features in the table, in their order."""
    return [int(text) for text in page.locator("tbody tr td:first-child").all_inner_texts()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_opens(pages, opened, kind):
    page = opened(pages[kind])
    assert page.locator("tbody tr").count() in (4, 5, 6)
    page.goto(f"{page.url.partition('#')[0]}#0/run")
    page.wait_for_selector("h2")
    assert "implicit-em train" in page.locator("pre").first.inner_text()
    assert page.get_by_text("random directions", exact=True).count() == (kind != "vectors")
    page.goto(f"{page.url.partition('#')[0]}#0/feature/1")
    page.wait_for_selector("text=Strongest")
    assert page.title().startswith("Feature 1 of ")
    text = page.locator("main").inner_text()
    assert not any(word in text for word in ("undefined", "[object", "NaN"))


def test_it_sorts_by_what_tells_most_or_by_any_column_and_the_link_knows_it(pages, opened):
    for kind, column in (("vectors", "strongest"), ("images", "AUROC")):
        page = opened(pages[kind])
        assert page.locator("th[aria-sort=descending]").inner_text() == column
        place = page.locator("th").all_inner_texts().index(column) + 1
        values = page.locator(f"tbody tr td:nth-child({place})").all_inner_texts()
        assert [float(value) for value in values] == sorted(map(float, values), reverse=True)
    page.get_by_role("button", name="feature", exact=True).click()
    assert features(page) == [0, 1, 2, 3, 4]
    page.get_by_role("button", name="strongest").click()
    order = features(page)
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("strongest")
    again = opened(pages["images"], page.url.partition("#")[2])
    assert features(again) == order
    page.get_by_role("button", name="strongest").click()
    assert features(page) == order[::-1]


def test_it_searches_numbers_labels_and_tokens(pages, opened):
    page = opened(pages["texts"])
    page.keyboard.press("/")
    page.keyboard.type("3")
    assert 3 in features(page)
    page.keyboard.press("Escape")
    assert len(features(page)) == 6
    page.keyboard.press("/")
    page.keyboard.type("SCRIPT>")
    assert all("script>" in row for row in page.locator("tbody tr").all_inner_texts())
    page.keyboard.type("nothing like it")
    assert features(page) == []
    assert page.get_by_role("status").inner_text() == "0 of 6 features"


def test_the_keyboard_goes_to_a_feature_and_back(pages, opened):
    page = opened(pages["images"])
    page.get_by_role("button", name="feature", exact=True).click()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:text-is('Feature 2')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("h1:text-is('Feature 3')")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("h1:text-is('Feature 4')")
    page.keyboard.press("Escape")
    page.wait_for_selector("table caption")
    assert "sort=unit" in page.url
    assert features(page) == [0, 1, 2, 3, 4]
    page.go_back()
    page.wait_for_selector("h1:text-is('Feature 4')")


def test_text_from_anywhere_stays_text(pages, opened):
    page = opened(pages["texts"], "0/feature/0")
    page.wait_for_selector(".context")
    shown = "".join(page.locator(".words").all_inner_texts())
    for token in ("</script>", "<script>alert(1)</script>", "<!--", "&lt;", "שלום", HOSTILE[7]):
        assert token in shown
    assert "‹202e›abc" in shown
    assert "␀⏎⇥" in shown
    assert page.locator("main script").count() == 0


def test_a_line_of_ten_megabytes_is_cut_and_stays_text(harvested, opened, tmp_path):
    run = harvested("gpt2", "data.first_positions=0", text=harvested.line)
    page = opened(explore([run], tmp_path / "page"))
    shown = ""
    for feature in range(5):
        page.goto(f"{page.url.partition('#')[0]}#0/feature/{feature}")
        page.wait_for_selector(f"h1:text-is('Feature {feature}')")
        shown += "".join(page.locator(".words").all_inner_texts())
    assert "<script>alert" in shown
    assert page.locator("main script").count() == 0
    files = [file for file in (tmp_path / "page").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2**20


def test_nothing_else_may_run_or_load(pages, opened, browser):
    context, refused = browser.new_context(), []
    page = context.new_page()
    page.on("console", lambda message, said=refused: said.append(message))
    page.goto(f"file://{pages['texts']}")
    page.wait_for_selector("table")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            const image = new Image();
            image.src = "https://example.org/x.png";
            document.body.append(script, image);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.title() != "taken over"
    assert sum("Content Security Policy" in message.text for message in refused) == 2
    context.close()


def test_runs_are_seen_side_by_side(pages, opened):
    page = opened(pages["two"], "0/feature/2")
    page.wait_for_selector("text=In the other runs")
    row = page.locator("section", has_text="In the other runs").locator("tbody tr").first
    partner = row.locator("a").inner_text()
    row.locator("a").click()
    page.wait_for_selector(f"h1:text-is('Feature {partner}')")
    assert "1/feature/" in page.url
    back = page.locator("section", has_text="In the other runs").locator("tbody a").first
    assert back.inner_text() == "2"
    page.get_by_role("link", name="Compare it in all runs").click()
    page.wait_for_selector(f"h1:has-text('Feature {partner} of')")
    columns = page.locator(".compared > section")
    assert columns.count() == 2
    assert columns.nth(1).locator("h2").inner_text().endswith(", feature 2")
    assert all(columns.nth(n).locator("li").count() == 8 for n in range(2))
    page.keyboard.press("Escape")
    page.wait_for_selector(f"h1:text-is('Feature {partner}')")


def test_what_is_not_there_is_said(pages, opened):
    for place, said in (("0/feature/99", "no feature 99"), ("7", "no run 7")):
        page = opened(pages["images"], place)
        assert said in page.locator("main").inner_text()
        page.get_by_role("link", name="All features").click()
        page.wait_for_selector("table")


def serious(page):
    """Return what axe finds that would keep somebody from using a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [one["id"] for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_stands_in_the_way_of_anybody(pages, trained, opened, scheme, width):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    for kind in ("texts", "images", "two"):
        views = [("0", "table"), ("0/feature/1", ".examples"), ("0/run", "h2")]
        views += [("0/compare/1", ".compared")] if kind == "two" else []
        for place, wait in views:
            page = opened(pages[kind], place, **options)
            page.wait_for_selector(wait)
            assert serious(page) == []
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, "only tables may scroll sideways"
    with answering(trained("images")) as address:
        page = opened(address, "0/try", offline=False, **options)
        page.wait_for_selector("canvas")
        assert serious(page) == []


@contextmanager
def answering(run, lm=None, **options):
    """Serve a run in a thread; gives the address."""
    with served([run], lm, **options) as (address, server), running(server):
        yield address


def test_a_text_that_is_typed_is_coloured(harvested, models, opened):
    with answering(harvested("bert"), str(models["bert"])) as address:
        page = opened(address, "0/try", offline=False)
        page.get_by_label("A text").fill("cat eel fog <b>key")
        page.get_by_role("button", name="Encode").click()
        page.wait_for_selector(".words .active")
        assert page.locator(".words .token").first.inner_text() == "[CLS]"
        assert "cat" in page.locator(".words").inner_text()
        page.locator(".words .token", has_text="eel").click()
        page.wait_for_selector("text=Features of the token")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_slider_steers_by_a_feature(harvested, models, opened, scheme, width, monkeypatch):
    monkeypatch.setattr("implicit_em.language.trials.WRITTEN", 8)
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with answering(harvested("llama"), str(models["llama"]), ablate=[2]) as address:
        page = opened(address, "0/feature/2", offline=False, **options)
        page.get_by_label("A text, from which").fill("cat eel <b>")
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("h3:has-text('Steered: add')")
        before = page.locator(".written").all_inner_texts()
        title = page.locator("h3", has_text="Steered").inner_text()
        posts = []
        page.on("request", lambda request: posts.append(request.url))
        page.evaluate("for (let n = 0; n < 6; n++) document.querySelector('form').requestSubmit()")
        page.wait_for_selector("[role=status]:empty", state="attached")
        assert len(posts) == 1, "only the last of the questions is asked"
        page.get_by_label("strength").focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        assert page.url.endswith("0/feature/2"), "arrows move the slider alone"
        page.wait_for_selector(f"h3:has-text('Steered'):not(:text-is('{title}'))")
        page.get_by_label("Its activation").select_option("set")
        page.wait_for_selector("h3:has-text('Steered: set to')")
        assert page.locator(".written").first.inner_text() == before[0]
        assert before[0].startswith("cat eel <b>")
        assert page.get_by_text("Its ablation makes less likely").count() == 1
        assert "nats a token, in" in page.locator("dl").first.inner_text()
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_of_files_does_not_offer_to_steer_or_to_try(harvested, models, opened, tmp_path):
    index = explore([harvested("llama")], tmp_path / "page", lm=str(models["llama"]))
    page = opened(index, "0/feature/2")
    page.wait_for_selector("text=Strongest")
    assert page.locator("input[type=range]").count() == 0
    assert "ablation" not in page.locator("main").inner_text()
    page = opened(index, "0/try")
    page.wait_for_selector("table")
    assert page.get_by_role("link", name="Try it").count() == 0


def test_a_digit_that_is_drawn_gets_its_features(trained, opened):
    with answering(trained("images")) as address:
        page = opened(address, "0/try", offline=False)
        box = page.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 200, steps=12)
        page.mouse.up()
        page.wait_for_selector("text=active features")
        page.locator(".answer a").first.click()
        page.wait_for_selector("text=Strongest")
