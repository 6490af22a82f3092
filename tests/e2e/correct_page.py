"""The Correct page in a real browser: correct_page.py TEST BASE_URL. A test is a function of this file."""

import base64
import json
import re
import urllib.error
import urllib.request

from browser import ROOT, ask, describe, expect, look, opened, photo, read, run, settled, words

TINY = "data:image/jpeg;base64," + base64.b64encode((ROOT / "src/serve/docs/example.jpg").read_bytes()).decode()


def post(url, body):
    """Sends as another client would."""
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})).read()


def described(page, *names):
    """Photographs are described, the last is the newest."""
    for name in names:
        photo(page, name)
        describe(page)


def record(page, at=0):
    """A record of the list, newest first."""
    return json.loads(page.locator("#records pre").nth(at).text_content())


def keyboard(base):
    """Everything without a mouse, up to the field where the right word is typed."""
    with opened(base) as page:
        on = lambda: page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

        def tab_to(what):
            for _ in range(30):
                page.keyboard.press("Tab")
                if on() == what:
                    assert page.evaluate("document.activeElement.matches(':focus-visible')"), what
                    return
            raise AssertionError(f"Tab does not reach {what}")

        tab_to("Skip to the content")
        page.keyboard.press("Enter")
        tab_to("A cat")
        page.keyboard.press("Enter")
        expect(page.locator("#photo-name")).to_have_text("cat.jpg")
        tab_to("question")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.locator("input[value=regenerate]").is_checked()
        page.keyboard.press("ArrowLeft")
        tab_to("describe")
        page.keyboard.press("Enter")
        settled(page)
        first = words(page).first.inner_text()
        tab_to(first)
        page.keyboard.press("ArrowRight")
        second = words(page).nth(1).inner_text()
        assert on() == second
        expect(page.locator("#word b")).to_have_text(second)
        page.keyboard.press("End")
        assert on() == words(page).last.inner_text()
        page.keyboard.press("Home")
        assert on() == first
        tab_to("Correct it")
        page.keyboard.press("Enter")
        expect(page.locator("#item")).to_be_visible()
        # The first flagged word has the focus; typing begins at once.
        flagged = page.locator("#item-words [data-stands=flagged]").first.inner_text()
        assert on() == flagged
        page.keyboard.type("cat")
        assert on() == "fix-text" and page.locator("#fix-text").input_value() == "cat"
        expect(page.locator("#fix-label")).to_have_text(f"Instead of “{flagged}”, write")
        page.keyboard.press("Shift+Enter")
        expect(page.locator("#staged li")).to_have_text(re.compile(f"{flagged} → cat"))
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Delete")
        expect(page.locator("#staged li")).to_have_count(2)
        # What the model had in mind is in reach of Tab.
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        chip = page.locator("#fix-chips button").first.inner_text()
        tab_to(chip)
        page.keyboard.press("Enter")
        assert on() == "fix-text" and page.locator("#fix-text").input_value() == chip
        page.keyboard.press("Escape")
        assert page.locator("#fix").is_hidden() and page.locator("#staged li").count() == 2


def correct(base):
    """A correction becomes a record, which the page shows; then the next item."""
    with opened(base) as page:
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-empty")).to_be_visible()
        page.goto(f"{base}#try")
        described(page, "cat.jpg", "coffee.jpg", "photographer.jpg")
        page.get_by_role("button", name="Correct it").click()
        page.fill("#annotator", "A. Reader")
        wrong = words(page, "#item").nth(1).inner_text().strip()
        words(page, "#item").nth(1).click()
        assert page.locator("#fix-text").evaluate("e => e.selectionEnd - e.selectionStart") == len(wrong)
        page.keyboard.type("cat")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-said")).to_have_text("Recorded. Here is the next one.")
        page.locator("#records summary").first.click()
        kept = record(page)
        assert (kept["kind"], kept["scope"], kept["annotator"]) == ("bad", "first_error", "A. Reader")
        assert [(e["text"], e["correction"]) for e in kept["errors"]] == [(wrong, "cat")]
        assert [t["label"] for t in kept["tokens"]][:3] == ["good", "bad", "none"]
        expect(page.locator("#records tr[data-label=bad] th")).to_have_text(wrong)
        # What the page shows is what the server keeps.
        assert read(f"{base}v1/feedback/{kept['id']}")["errors"] == kept["errors"]
        look(page, "corrected")
        # Several errors: then the rest is right. What was said about the item before is gone with the next.
        words(page, "#item").nth(1).click()
        page.keyboard.type("cat")
        page.get_by_role("button", name="Keep it and mark more").click()
        words(page, "#item").last.click()
        page.fill("#fix-text", "")
        page.keyboard.press("Enter")
        expect(page.locator("#records > li")).to_have_count(2)
        assert record(page)["scope"] == "all_errors" and [e.get("correction") for e in record(page)["errors"]] == ["cat", ""], record(page)
        # What is left out, at the last; then nothing is waiting but what others asked for.
        page.get_by_role("button", name="Something is missing").click()
        page.keyboard.type("a cat's whiskers")
        page.keyboard.press("Enter")
        expect(page.locator("#records > li")).to_have_count(3)
        assert (record(page)["kind"], record(page)["missing"]) == ("missing", ["a cat's whiskers"])
        expect(page.locator("#correct-empty")).to_be_visible()


def judge(base):
    """All good, and an edit of the whole text."""
    with opened(base) as page:
        described(page, "coffee.jpg", "cat.jpg")
        page.goto(f"{base}#correct")
        text = page.locator("#item-words").inner_text()
        page.get_by_role("button", name="Edit the text").click()
        assert page.locator("#edit-text").input_value() == text
        page.fill("#edit-text", text.replace("dog", "cat"))
        page.locator("#edit-form button").click()
        expect(page.locator("#records > li")).to_have_count(1)
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(2)
        good, edit = record(page), record(page, 1)
        assert good["kind"] == "good" and {t["label"] for t in good["tokens"]} == {"good"}
        assert [(e["text"], e["correction"]) for e in edit["errors"]] == [("dog", "cat")]


def once(base):
    """The same photograph and answer are judged once, whichever way and however often they were asked for, here or by the queue."""
    with opened(base) as page:
        photo(page)
        for mode in ["flag", "off", "flag", "off"]:
            describe(page, mode)
        page.goto(f"{base}#correct")
        # Of those that are the same, one that was checked.
        assert page.locator("#item-words [data-stands=flagged]").count() > 0
        page.fill("#annotator", "A. Reader")
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#correct-said")).to_have_text("Recorded. Nothing else is waiting.")
        expect(page.locator("#correct-empty")).to_be_visible()
        # Nor after a reload.
        page.reload()
        expect(page.locator("#correct-empty")).to_be_visible()


def skipped(base):
    """What was left to others does not come back through the queue."""
    with opened(base) as page:
        photo(page)
        describe(page)
        page.goto(f"{base}#correct")
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#correct-empty")).to_be_visible()
        with page.expect_response("**/skip") as left:
            page.fill("#annotator", "A. Reader")
            page.keyboard.press("Tab")
        assert left.value.status == 204
        expect(page.locator("#correct-empty")).to_be_visible()


def undone(base):
    """What was sent is taken back: the record goes, the answer comes back with what was typed, and can be sent again."""
    with opened(base) as page:
        described(page, "coffee.jpg", "cat.jpg")
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        text = page.locator("#item-words").inner_text()
        words(page, "#item").nth(1).click()
        page.keyboard.type("thing")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-said")).to_contain_text("Recorded")
        first = record(page)
        assert page.locator("#item-words").inner_text() != text
        # After a reload too: the list is the server's.
        page.reload()
        expect(page.locator("#records > li")).to_have_count(1)
        page.get_by_role("button", name="Take it back").click()
        expect(page.locator("#correct-said")).to_have_text("Taken back. Here is the answer again.")
        expect(page.locator("#item-words")).to_have_text(text)
        expect(page.locator("#staged li")).to_contain_text("→ thing")
        expect(page.locator("#mine")).to_be_hidden()
        try:
            read(f"{base}v1/feedback/{first['id']}")
            raise AssertionError("the record is still there")
        except urllib.error.HTTPError as error:
            assert error.code == 404
        page.get_by_role("button", name="Send all").click()
        expect(page.locator("#records > li")).to_have_count(1)
        second = record(page)
        assert second["id"] != first["id"] and second["image"] == first["image"] and second["response"] == text
        assert [(e["text"], e["correction"]) for e in second["errors"]] == [(e["text"], e["correction"]) for e in first["errors"]]
        # The message goes with the item that it was about; it is complete when that is shown.
        expect(page.locator("#correct-said")).to_contain_text("Here is the next one")
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#correct-said")).to_have_text("")
        expect(page.locator("#item-judged")).to_contain_text("→ thing")
        look(page, "a judged item")


def returned(base):
    """What was judged before a reload and is taken back comes again, out of the server's queue."""
    ask(base, "cat.jpg")
    with opened(base) as page:
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#item")).to_be_visible()
        text = page.locator("#item-words").inner_text()
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#correct-empty")).to_be_visible()
        page.reload()
        page.get_by_role("button", name="Take it back").click()
        expect(page.locator("#correct-said")).to_have_text("Taken back.")
        expect(page.locator("#item-words")).to_have_text(text)


def neighbors(base):
    """Previous and next go through the items; what was judged says so and cannot be judged again."""
    with opened(base) as page:
        described(page, "photographer.jpg", "coffee.jpg", "cat.jpg")
        page.goto(f"{base}#correct")
        shown = lambda: page.locator("#item-words").inner_text()
        first = shown()
        assert page.locator("#previous").is_disabled()
        page.get_by_role("button", name="Next").click()
        page.wait_for_function("before => document.getElementById('item-words').innerText !== before", arg=first)
        second = shown()
        page.get_by_role("button", name="Previous").click()
        expect(page.locator("#item-words")).to_have_text(first)
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#item-words")).to_have_text(second)
        page.get_by_role("button", name="Previous").click()
        expect(page.locator("#item-judged")).to_contain_text("You sent: all good")
        assert page.locator("#judge").is_hidden()
        words(page, "#item").first.click()
        assert page.locator("#fix").is_hidden()
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="Next").click()
        page.wait_for_function("seen => !seen.includes(document.getElementById('item-words').innerText)", arg=[first, second])
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#correct-empty")).to_be_visible()
        assert page.locator("#next").is_disabled()
        page.get_by_role("button", name="Previous").click()
        expect(page.locator("#item")).to_be_visible()


def mine(base):
    """My corrections are mine alone, page by page, with the progress of all."""
    for name, count in [("A. Reader", 22), ("B. Reader", 1)]:
        for i in range(count):
            answer = {"image": TINY, "response": f"A dog number {i}.", "error": {"start": 2, "end": 5}, "correction": "cat", "annotator": name}
            post(f"{base}v1/feedback", answer)
    with opened(base) as page:
        described(page, "cat.jpg")
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#records > li")).to_have_count(20)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#records > li")).to_have_count(22)
        expect(page.locator("#mine-more")).to_be_hidden()
        assert {json.loads(text)["annotator"] for text in page.locator("#records pre").all_text_contents()} == {"A. Reader"}
        page.get_by_role("button", name="Take it back").first.click()
        expect(page.locator("#records > li")).to_have_count(21)
        page.fill("#annotator", "B. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#records > li")).to_have_count(1)
        # Those that were sent here under another name are the other's.
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(2)
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#records > li")).to_have_count(20)
        assert {json.loads(text)["annotator"] for text in page.locator("#records pre").all_text_contents()} == {"A. Reader"}
        length = read(f"{base}v1/queue")
        expect(page.locator("#progress-text")).to_have_text(re.compile(rf"^{length['done']} answers? of this server judged, {length['open']} open$"))
        look(page, "my corrections")


def queued(base):
    """Answers that others asked for come from the server's queue, with marks; they are corrected or left to others."""
    asked = {answer["id"]: answer["choices"][0] for answer in [ask(base, "cat.jpg"), ask(base, "coffee.jpg")]}
    with opened(base) as page:
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-empty")).to_be_visible()
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#item")).to_be_visible()
        text = page.locator("#item-words").inner_text()
        choice = next(c for c in asked.values() if c["message"]["content"] == text)
        marked = page.locator("#item-words [data-stands=flagged]").all_inner_texts()
        assert marked == [word for span in choice["guard"]["spans"] for word in span["text"].split()], marked
        assert page.locator("#item-photo").evaluate("image => image.complete && image.naturalWidth > 0")
        look(page, "an item of the queue")
        page.keyboard.type("thing")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-said")).to_have_text("Recorded. Here is the next one.")
        assert asked[record(page)["completion_id"]] == choice and record(page)["errors"][0]["correction"] == "thing"
        expect(page.locator("#progress-text")).to_have_text("1 answer of this server judged, 1 open")
        assert page.locator("#item-words").inner_text() != text
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#correct-empty")).to_be_visible()
        length = read(f"{base}v1/queue")
        assert (length["open"], length["done"], length["leased"]) == (1, 1, 0), length
        page.goto(f"{base}#watch")
        expect(page.get_by_role("region", name="Annotation queue")).to_contain_text("1waiting, 0 of them being judged now; 1 done.")


def unmarked(base):
    """What is judged without help is shown without marks."""
    ask(base, "cat.jpg")
    with opened(base) as page:
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#item-plain")).to_be_visible()
        assert page.locator("#item-words [data-stands=flagged]").count() == 0
        assert all("reward" not in option.get_attribute("aria-label") for option in words(page, "#item").all())
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(1)


if __name__ == "__main__":
    run(globals())
