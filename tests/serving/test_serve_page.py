"""The page of `taskmoe serve`, in a real browser."""

import shutil

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
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    problems, asked = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{service.port}/")
    page.wait_for_selector("#direction option:nth-child(2)", state="attached")
    yield page
    page.close()
    own = (f"http://127.0.0.1:{service.port}/", "data:")
    assert not problems and all(url.startswith(own) for url in asked)


def test_it_shows_translations_and_scores(page, service):
    assert page.locator("#direction option").all_inner_texts() == ["de → en", "en → de"]
    page.select_option("#direction", "en-de")
    page.fill("#beam", "3")
    page.fill("#n_best", "2")
    page.fill("#text", "\n\n".join(TEXTS))
    page.click("#translate")
    page.wait_for_selector("ol:nth-of-type(2) li:nth-child(2)")
    assert page.locator(".source").all_inner_texts() == TEXTS
    answer = translate(service.port, "en-de", TEXTS, beam=3, n_best=2).json
    shown = page.locator("li").evaluate_all("items => items.map(item => item.textContent)")
    assert shown == [
        f"{each['text']}{each['score']:.3f}" for found in answer["translations"] for each in found
    ]
    assert page.title() == "taskmoe" and page.locator("#translations img").count() == 0


def test_it_shows_errors_and_goes_on(page, service):
    page.select_option("#direction", "en-de")
    page.fill("#n_best", "9")
    page.fill("#text", "Good day!")
    page.click("#translate")
    error = sync_api.expect(page.locator("#error"))
    error.to_have_text("n_best: 9, at most the beam of 4 is allowed", timeout=PATIENCE)
    page.fill("#n_best", "1")
    page.fill("#text", "a\nb\nc\nd")
    page.click("#translate")
    error.to_have_text("text: 4 texts, at most 3 are allowed", timeout=PATIENCE)
    page.fill("#text", "Good day!")
    page.click("#translate")
    page.wait_for_selector("li")
    assert page.inner_text("#error") == ""


def test_no_script_but_its_own_runs(page):
    put_in = "s = document.createElement('script'); s.textContent = 'document.title = 1'"
    page.evaluate(f"() => {{ {put_in}; document.body.append(s); }}")
    assert page.title() == "taskmoe"
