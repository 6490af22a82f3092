"""The page about the API in a real browser: docs_page.py TEST BASE_URL. A test is a function of this file."""

import json

from browser import expect, look, opened, read, run


def described(base):
    """Every operation of the description is there, with its fields, and found by its letters."""
    api = read(f"{base}openapi.json")
    wanted = {f"{method.upper()} {path}" for path, item in api["paths"].items() for method in item}
    with opened(base) as page:
        page.goto(f"{base}docs")
        expect(page.locator(".operation").first).to_be_visible()
        shown = {summary.locator("b").inner_text() + " " + summary.locator("code").first.inner_text() for summary in page.locator(".operation > summary").all()}
        assert shown == wanted, shown ^ wanted
        page.fill("#find", "agreement")
        expect(page.locator(".operation:visible")).to_have_count(1)
        page.fill("#find", "")
        chat = page.locator("#post-v1-chat-completions")
        chat.locator("> summary").click()
        chat.locator(".schema > summary").first.click()
        for field in api["components"]["schemas"]["ChatRequest"]["properties"]:
            expect(chat.locator(".fields code", has_text=field).first).to_be_visible()
        # An operation has an address.
        page.goto(f"{base}docs#get-v1-queue")
        expect(page.locator("#get-v1-queue .part").first).to_be_visible()


def tried(base):
    """Requests are sent from the page, and answers shown as text; the example as it stands."""
    with opened(base) as page:
        page.goto(f"{base}docs#get-v1-models-id")
        one = page.locator("#get-v1-models-id")
        one.get_by_label("id").fill("candor-mini")
        one.get_by_role("button", name="Send").click()
        expect(one.get_by_label("The answer", exact=True)).to_contain_text('"id": "candor-mini"')
        one.get_by_label("id").fill("<b>../none")
        one.get_by_role("button", name="Send").click()
        expect(one.locator(".answer")).to_contain_text("404")
        expect(one.get_by_label("The answer", exact=True)).to_contain_text("<b>")
        page.goto(f"{base}docs#post-v1-chat-completions")
        chat = page.locator("#post-v1-chat-completions")
        chat.get_by_role("button", name="Send").click()
        expect(chat.locator(".answer")).to_contain_text("200")
        answer = json.loads(chat.get_by_label("The answer", exact=True).inner_text())
        assert answer["choices"][0]["guard"]["verdict"]
        expect(chat.get_by_label("Headers of the answer")).to_contain_text("x-candor-verdict")
        look(page, "tried")
        page.goto(f"{base}docs#post-v1-score")
        score = page.locator("#post-v1-score")
        score.get_by_role("button", name="Send").click()
        expect(score.locator(".answer")).to_contain_text("200")
        assert json.loads(score.get_by_label("The answer", exact=True).inner_text())["results"][0]["tokens"]


if __name__ == "__main__":
    run(globals())
