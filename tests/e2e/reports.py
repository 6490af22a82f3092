"""Pages that `candor eval … --html` writes, in a real browser: reports.py FILE.html ..."""

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from browser import CHROMIUM, look

#: What is wider than the window, or scrolls sideways in itself.
SIDEWAYS = """() => [...document.querySelectorAll("body *")].filter(e => {
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (style.clipPath !== "none" || e.closest("svg svg, thead") || !box.width) return false;
  const scrolls = ["auto", "scroll"].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1;
  return scrolls || box.right > innerWidth + 1 || box.left < -1;
}).map(e => e.outerHTML.slice(0, 120))"""

#: Photographs whose bytes are no picture.
BROKEN = "() => [...document.images].filter(image => image.complete && !image.naturalWidth).length"


def main(files):
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        for file in map(Path, files):
            for width in [1180, 700, 360]:
                for scheme in ["light", "dark"]:
                    where = f"{file.name}, {width} px, {scheme}"
                    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
                    outside = []
                    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
                    page.goto(file.resolve().as_uri())
                    look(page, where)
                    if width == 360:
                        sideways = page.evaluate(SIDEWAYS)
                        assert not sideways, (where, sideways)
                    assert page.evaluate(BROKEN) == 0, where
                    assert not outside, (where, outside)
                    page.context.close()
            # Printed on A4, nothing is cut off.
            page = browser.new_context(viewport={"width": 718, "height": 1000}).new_page()
            page.goto(file.resolve().as_uri())
            page.emulate_media(media="print")
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1], (file.name, "print", widths)
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
