"""All views in a real browser, as people see and reach them: views.py TEST BASE_URL. A test is a function of this file."""

from browser import describe, expect, look, opened, photo, run, settled, words


def every_view(base, **context):
    """All views, filled, as axe sees them."""
    with opened(base, **context) as page:
        look(page, "try, empty")
        photo(page)
        describe(page)
        page.locator(".answer [data-stands=flagged]").first.hover()
        page.locator("#curl summary").click()
        look(page, "try")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        look(page, "compare")
        page.get_by_role("button", name="Enlarge").click()
        look(page, "enlarged")
        page.keyboard.press("Escape")
        page.goto(f"{base}#correct")
        expect(page.locator("#item")).to_be_visible()
        page.keyboard.type("c")
        look(page, "correct")
        page.keyboard.press("Shift+Enter")
        page.get_by_role("button", name="Something is missing").click()
        page.get_by_role("button", name="Edit the text").click()
        look(page, "correct, forms")
        page.goto(f"{base}#watch")
        expect(page.locator(".card").first).to_be_visible()
        look(page, "watch")
        page.goto(f"{base}#guide")
        expect(page.get_by_role("heading", name="Guide for annotators")).to_be_visible()
        look(page, "guide")
        page.goto(f"{base}docs")
        expect(page.locator(".operation").first).to_be_visible()
        look(page, "API")
        # Contents are made when they are opened.
        for _ in range(3):
            page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
            page.wait_for_timeout(100)
        look(page, "API, opened")
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def light(base):
    assert every_view(base, color_scheme="light") == "rgb(248, 246, 241)"


def dark(base):
    assert every_view(base, color_scheme="dark") == "rgb(20, 23, 27)"


def narrow(base):
    """A phone of 360 px: nothing is cut off or scrolls sideways."""
    every_view(base, viewport={"width": 360, "height": 740}, has_touch=True)


def calm(base):
    """Who wants no motion has none; who enlarges letters twice still reads everything."""
    with opened(base, reduced_motion="reduce", viewport={"width": 590, "height": 450}) as page:
        moving = "[...document.querySelectorAll('*')].some(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
        photo(page)
        describe(page)
        assert not page.evaluate(moving)
        look(page, "enlarged")


RINGS = """() => [...document.querySelectorAll("*")].filter((e) => e.checkVisibility()).map((e) => getComputedStyle(e))
    .filter((style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0).map((style) => style.outline)"""


def ring(base):
    """Wherever Tab goes, exactly one thing has a ring, and it is the same ring."""
    with opened(base) as page:
        seen = set()
        photo(page)
        page.get_by_role("button", name="Compare").click()
        settled(page)
        for view in ["try", "correct", "watch", "guide"]:
            page.goto(f"{base}#{view}")
            expect(page.locator(f"#view-{view}")).to_be_visible()
            page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex') }")
            stops = 0
            for _ in range(80):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement === document.body"):
                    break
                rings = page.evaluate(RINGS)
                assert len(rings) == 1, (view, page.evaluate("document.activeElement.outerHTML"), rings)
                seen.update(rings)
                stops += 1
            assert stops > 5, (view, stops)
        page.goto(f"{base}#correct")
        words(page, "#item").first.focus()
        page.keyboard.press("Shift+ArrowRight")
        assert len(page.evaluate(RINGS)) == 1 and page.locator("#item-words [aria-selected=true]").count() == 2
        assert len(seen) == 1, seen


if __name__ == "__main__":
    run(globals())
