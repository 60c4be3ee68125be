"""The page of `taskmoe serve`, in a real browser."""

import os
import shutil
from pathlib import Path

import pytest
from services import PATIENT, Service, translate

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
QUIET = [  # no sandbox (for root), no GPU, no requests of the browser itself
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]
# where the documentation's screenshots go, if they are to be made again: docs/images
SCREENSHOTS = os.environ.get("TASKMOE_SCREENSHOTS")
PATIENCE = 120_000  # ms; tests must not fail on a busy machine
TEXTS = ["Good day!", '<img src=x onerror="document.title=1">']

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def service(served, tmp_path_factory):
    log = tmp_path_factory.mktemp("page") / "log"
    with Service(served, log, *PATIENT, "--max-texts", 3) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    """Give the loaded page; it must have no errors and send no requests to other hosts."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems, asked = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{service.port}/")
    loaded(page)
    yield page
    context.close()
    own = (f"http://127.0.0.1:{service.port}/", "data:")
    assert not problems and all(url.startswith(own) for url in asked)


def loaded(page):
    page.wait_for_selector("#source option[value]", state="attached")
    page.wait_for_selector("body:not(.busy)")


def choose(page, pair):
    source, target = pair.split("-")
    page.select_option("#source", source)
    page.select_option("#target", target)


def shown(page, selector="#translation p"):
    return page.locator(selector).evaluate_all("items => items.map(item => item.textContent)")


def test_it_names_languages_and_keeps_the_lines(page, service):
    assert page.locator("#source option").all_inner_texts() == ["English (en)", "German (de)"]
    choose(page, "en-de")
    page.fill("#text", "\n\n".join(TEXTS))
    page.click("#translate")
    page.wait_for_selector("#translation p:nth-child(3)")
    first, second = translate(service.port, "en-de", TEXTS).json["translations"]
    assert shown(page) == [first[0]["text"], "", second[0]["text"]]
    assert page.get_attribute("#translation", "lang") == "de"
    assert page.title() != "1" and page.locator("#translation img").count() == 0


def test_scores_and_alternatives_are_behind_a_toggle(page, service):
    assert not page.is_visible("#n_best")
    choose(page, "en-de")
    page.fill("#text", TEXTS[0])
    page.click("#details")
    page.fill("#beam", "3")
    page.fill("#n_best", "2")
    page.click("#translate")
    page.wait_for_selector("ol li:nth-child(2)")
    [found] = translate(service.port, "en-de", TEXTS[:1], beam=3, n_best=2).json["translations"]
    assert shown(page, "li") == [f"{each['text']}{each['score']:.2f}" for each in found]
    page.click("#details")
    sync_api.expect(page.locator(".score")).to_have_count(0, timeout=PATIENCE)
    assert shown(page) == [found[0]["text"]]


def test_it_shows_errors_and_goes_on(page, service):
    choose(page, "en-de")
    page.click("#details")
    page.fill("#n_best", "9")
    page.fill("#text", "Good day!")
    page.click("#translate")
    error = sync_api.expect(page.locator("#error"))
    error.to_have_text("n_best: 9, at most the beam of 4 is allowed", timeout=PATIENCE)
    page.click("#details")
    page.fill("#text", "a\nb\nc\nd")
    page.click("#translate")
    error.to_have_text("text: 4 texts, at most 3 are allowed", timeout=PATIENCE)
    page.fill("#text", "Good day!")
    page.click("#translate")
    page.wait_for_selector("#translation p[dir=auto]")
    assert page.inner_text("#error") == ""


def test_it_works_with_the_keyboard_alone(page):
    """From text to translation, swapped languages and the clipboard."""
    choose(page, "en-de")
    page.focus("#text")
    page.keyboard.type("Good day!")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#translation p[dir=auto]")
    assert page.evaluate("document.activeElement.id") == "text"
    [german] = shown(page)
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order == ["translate", "translation", "details", "copy"]
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#status")).to_have_text("Copied", timeout=PATIENCE)
    assert page.evaluate("navigator.clipboard.readText()") == german
    page.focus("#swap")
    page.keyboard.press("Space")
    assert [page.input_value(name) for name in ("#text", "#source", "#target")] == [
        german, "de", "en"
    ]
    page.wait_for_selector("body:not(.busy)")  # it is translated back, or is too long for that


def test_a_screen_reader_finds_names_states_and_the_result(page):
    for role, name in [
        ("heading", "Translate"), ("combobox", "From"), ("combobox", "To"),
        ("button", "Swap the languages"), ("textbox", "Text, one sentence per line"),
        ("button", "Translate"), ("region", "Translation"), ("button", "Copy"),
        ("button", "Scores and alternatives"), ("link", "API"),
    ]:
        assert page.get_by_role(role, name=name, exact=True).count() == 1, name
    choose(page, "en-de")
    page.fill("#text", "Good day!")
    page.evaluate("""() => {
        window.busy = [];
        const pane = document.getElementById("translation");
        new MutationObserver(() => window.busy.push(pane.ariaBusy)).observe(
            pane, {attributeFilter: ["aria-busy"]});
    }""")
    page.click("#translate")
    page.wait_for_selector("#translation p[dir=auto]")
    page.wait_for_selector("body:not(.busy)")
    assert page.evaluate("window.busy") == ["true", "false"]
    assert page.get_by_role("status").text_content() == shown(page)[0]
    assert page.get_attribute("#status", "lang") == "de"
    page.click("#details")
    assert page.get_attribute("#details", "aria-pressed") == "true"


# code -> name and BCP 47, where they differ from what a browser makes of the code itself
LANGUAGES = {
    "ar": ("Arabic (ar)", "ar"), "pt_BR": ("Brazilian Portuguese (pt_BR)", "pt-BR"),
    "zh_Hans": ("Simplified Chinese (zh_Hans)", "zh-Hans"), "sr@latin": ("sr@latin", ""),
}


def test_languages_are_named_and_marked_as_in_bcp_47(page):
    for code, (name, tag) in LANGUAGES.items():
        assert page.evaluate("code => [label(code), tag(code)]", code) == [name, tag]


# What a model with these languages may answer. It shows the page in the documentation, and that
# the page can show other scripts; no model of the tests has them.
SAMPLE = {
    "directions": [
        {"lang_pair": f"{source}-{target}", "source": source, "target": target}
        for lang in ("ar", "de", "ru", "zh", "hi")
        for source, target in (("en", lang), (lang, "en"))
    ],
    "translations": [
        [{"text": text, "score": score} for text, score in found] for found in (
            [("Montag, 3. März", -0.11), ("Montag, der 3. März", -0.42), ("Montag 3. März", -0.87)],
            [("vor 5 Minuten", -0.05), ("vor fünf Minuten", -0.66), ("5 Minuten her", -1.21)],
            [("Frankreich, Belgien und Deutschland", -0.08),
             ("Frankreich, Belgien, Deutschland", -0.73), ("Frankreich und Belgien", -1.94)],
        )
    ],
}
SAMPLE_TEXT = "Monday, March 3\n5 minutes ago\nFrance, Belgium, and Germany"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(scheme, page, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 1000, "height": 690 if scheme == "light" else 530})
    page.route("**/directions", lambda route: route.fulfill(json=SAMPLE))
    page.route("**/translate", lambda route: route.fulfill(json=SAMPLE))
    page.reload()
    loaded(page)
    choose(page, "en-de")
    page.fill("#text", SAMPLE_TEXT)
    if scheme == "light":
        page.click("#details")
    page.click("#translate")
    page.wait_for_selector("#translation p[dir=auto]:nth-of-type(3)")
    path = Path(SCREENSHOTS or tmp_path) / f"serve-{scheme}.png"
    page.screenshot(path=path)
    assert path.stat().st_size > 10_000
    dark = page.evaluate("""() => ["body", "select", "textarea", "#copy"].map(name =>
        getComputedStyle(document.querySelector(name)).color.match(/\\d+/g)[0] > 128)""")
    assert dark == 4 * [scheme == "dark"]  # light text, on controls too


def test_no_script_but_its_own_runs(page):
    put_in = "s = document.createElement('script'); s.textContent = 'document.title = 1'"
    page.evaluate(f"() => {{ {put_in}; document.body.append(s); }}")
    assert page.title() != "1"
