"""What the page's tests share: Chromium with a page of a running Candor, and a look at it by axe."""

import base64
import contextlib
import json
import os
import shutil
import sys
import urllib.request
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "tests/fixtures/photos"
AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
#: What axe knows of WCAG 2.2 AA, and its advice beyond that.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

expect.set_options(timeout=60_000)


@contextlib.contextmanager
def opened(base, state="ready", **context):
    """The page, when it knows how the server is. Whatever the browser complains about on its own, such as something that the policy forbids, is an error in the end."""
    complaints = []
    with sync_playwright() as playwright:
        # As root, as in most containers, Chromium runs without its sandbox or not at all.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_context(locale="en-GB", **{"viewport": {"width": 1180, "height": 900}, **context}).new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" and "Failed to load resource" not in said.text else None)
        page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith((base, "data:")) else None)
        page.goto(base)
        expect(page.locator("#server")).to_have_attribute("data-state", state)
        yield page
        browser.close()
    assert not complaints, complaints


def ask(base, name):
    """Asks as another client would."""
    url = "data:image/jpeg;base64," + base64.b64encode((PHOTOS / name).read_bytes()).decode()
    content = [{"type": "text", "text": "Describe this photograph."}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "candor-mini", "messages": [{"role": "user", "content": content}], "guard": {"mode": "flag"}}
    request = urllib.request.Request(f"{base}v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def read(url):
    """What the server answers to others, as JSON."""
    return json.load(urllib.request.urlopen(url))


def run(tests):
    """FILE.py TEST BASE_URL [MORE]: a test is a function of the file."""
    name, base, *more = sys.argv[1:]
    tests[name](base, *more)


def photo(page, name="cat.jpg"):
    page.set_input_files("#photo-file", PHOTOS / name)
    expect(page.locator("#photo-name")).to_have_text(name)


def describe(page, mode="flag"):
    page.check(f"input[name=mode][value={mode}]", force=True)
    page.get_by_role("button", name="Describe", exact=True).click()
    settled(page)


def settled(page):
    """Waits for the end of all answers."""
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".answer").first).to_be_visible()


def words(page, within=".answer"):
    return page.locator(f"{within} [role=option]")


def look(page, where):
    """Nothing that axe finds, and nothing wider than the window."""
    # In the middle of a transition colors are neither the old nor the new ones.
    page.evaluate("Promise.allSettled(document.getAnimations().map(animation => animation.finished))")
    page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE.read_text() + ";0"})
    found = page.evaluate("rules => axe.run(document, {runOnly: rules}).then(r => r.violations)", RULES)
    said = [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"]]
    assert not said, "\n".join([where, *said])
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], (where, widths)
