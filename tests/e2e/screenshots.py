"""Makes the pictures of docs/quickstart.md from a running Candor: screenshots.py FOLDER-OF-PICTURES BASE_URL

.venv/bin/python tests/e2e/screenshots.py docs http://127.0.0.1:8080/
"""

import sys

from browser import describe, expect, opened, photo, settled


def shoot(page, path):
    """The whole page as it is, without a mouse over it."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    page.screenshot(path=path, type="jpeg", quality=80, full_page=True)


def compared(base, path):
    """A flag that is right, and a repair that is better: the suit is not red."""
    with opened(base, viewport={"width": 1080, "height": 1000}) as page:
        page.get_by_role("button", name="A portrait").click()
        expect(page.locator("#photo-name")).to_have_text("portrait.jpg")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        flagged = page.locator(".answer").nth(1).locator("[data-stands=flagged]")
        assert flagged.all_inner_texts() == ["red"], flagged.all_inner_texts()
        again = page.locator(".answer").nth(2).locator(".words").inner_text()
        assert "red" not in again and page.locator(".verdict").last.inner_text() == "repaired", again
        flagged.first.focus()
        page.locator("#earlier").evaluate("earlier => (earlier.hidden = true)")
        shoot(page, path)


def corrected(base, path):
    """A flag that is right, and what a person writes in its place."""
    with opened(base, color_scheme="dark", viewport={"width": 1080, "height": 800}) as page:
        photo(page)
        describe(page)
        page.get_by_role("button", name="Correct it").click()
        flagged = page.locator("#item [data-stands=flagged]").last
        assert flagged.inner_text() == "dog"
        flagged.focus()
        page.keyboard.type("cat")
        shoot(page, path)


if __name__ == "__main__":
    folder, base = sys.argv[1:]
    compared(base, f"{folder}/page-try.jpg")
    corrected(base, f"{folder}/page-correct.jpg")
