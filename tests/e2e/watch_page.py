"""The Watch page in a real browser: watch_page.py TEST BASE_URL. A test is a function of this file."""

import json
import re
import urllib.error
import urllib.request

from browser import ask, describe, expect, look, opened, photo, read, run, words

SAID = {"unscored": "not checked", "blocked": "stopped early", "abstained": "no answer"}


def watch(base):
    """What the page shows of the metrics is what the server counted."""
    with opened(base) as page:
        photo(page)
        describe(page)
        describe(page, "regenerate")
        describe(page, "off")
        page.goto(f"{base}#watch")
        card = lambda title: page.get_by_role("region", name=title)
        # One answer more than these three: the server asks itself when it starts.
        expect(card("Answers with flagged words")).to_contain_text("checked answers")
        shares = card("Verdicts").get_by_role("img").get_attribute("aria-label")
        text = urllib.request.urlopen(f"{base}metrics").read().decode()
        counted = {v: int(n) for v, n in re.findall(r'candor_responses_total\{verdict="(\w+)"\} (\d+)', text) if int(n)}
        assert shares == ", ".join(f"{SAID.get(v, v)} {counted[v]}" for v in ["clean", "flagged", "repaired", "blocked", "unscored", "abstained"] if v in counted)
        # Colors and counts of rewards follow the threshold that is served.
        threshold = read(f"{base}ui/about.json")["threshold"]
        buckets = [(float(to), int(n)) for to, n in re.findall(r'candor_token_reward_bucket\{le="([\d.]+)"\} (\d+)', text)]
        low = [(to, n) for to, n in buckets if to <= threshold]
        assert card("Rewards of tokens").get_by_role("img").get_attribute("aria-label").startswith(f"{low[-1][1]} of ")
        assert card("Rewards of tokens").locator("rect.flagged").count() == len(low)
        assert card("Rewards of tokens").locator("rect.partly").count() == (0 if low[-1][0] == threshold else 1)
        expect(card("Rewards of tokens")).to_contain_text(f"served threshold of {threshold:.0%}".replace("%", "\u00a0%"))
        expect(card("Most flagged words")).to_contain_text("dog")
        expect(page.locator("#watch-span")).to_contain_text(f"{sum(counted.values())} answers of all clients")
        # What people say joins the figures.
        page.goto(f"{base}#correct")
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(1)
        words(page, "#item").first.click()
        page.keyboard.type("One")
        page.keyboard.press("Enter")
        expect(page.locator("#records > li")).to_have_count(2)
        page.goto(f"{base}#watch")
        expect(card("Human judgments")).to_contain_text("all good 1")
        expect(card("Most corrected").get_by_role("listitem")).to_have_text("a 1")
        judged = sum(sum(t["label"] != "none" and "reward" in t for t in json.loads(text)["tokens"]) for text in page.locator("#records pre").all_text_contents())
        expect(card("Calibration of rewards")).to_contain_text(f"{judged} tokens judged")


def span(base):
    """Over a time of one's choice only what was new in it is counted; latency and errors are there."""
    ask(base, "coffee.jpg")
    with opened(base) as page:
        card = lambda title: page.get_by_role("region", name=title)
        page.goto(f"{base}#watch")
        expect(card("Verdicts")).to_be_visible()
        page.select_option("#range", "60")
        expect(page.locator("#watch-span")).to_contain_text("0 answers of all clients")
        expect(card("Answers with flagged words")).to_contain_text("No answer was checked in this time.")
        for _ in range(2):
            ask(base, "cat.jpg")
        try:
            urllib.request.urlopen(urllib.request.Request(f"{base}v1/chat/completions", b"{}", {"content-type": "application/json"}))
        except urllib.error.HTTPError as error:
            assert error.code == 400
        expect(page.locator("#watch-span")).to_contain_text("2 answers of all clients, 2 of them checked")
        expect(page.locator("#watch-span")).to_contain_text("as far as this tab has watched")
        expect(card("Latency")).to_contain_text("of the 2 answers were complete")
        expect(card("Errors")).to_contain_text("failed (5xx); 1 were refused (4xx)")
        look(page, "the last hour")
        page.select_option("#range", "0")
        # What the server asked itself when it started is no answer.
        expect(page.locator("#watch-span")).to_contain_text("Since the server was started")
        expect(page.locator("#watch-span")).to_contain_text("3 answers of all clients")
        # The scrapes stay in the tab.
        page.select_option("#range", "60")
        page.reload()
        page.select_option("#range", "60")
        expect(page.locator("#watch-span")).to_contain_text("2 answers of all clients")


if __name__ == "__main__":
    run(globals())
