"""LiteLLM against a running Candor: litellm_client.py BASE_URL PHOTO.jpg"""

import os
import unittest

# Its table of prices is of its own package, and nothing is reported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

from common import BASE_URL, STRICT, messages

litellm.telemetry = False
litellm.suppress_debug_info = True


def complete(**more):
    asked = {"model": "openai/candor-mini", "api_base": BASE_URL, "api_key": "unused", "messages": messages(), "num_retries": 0, **more}
    return litellm.completion(**asked)


class LiteLlm(unittest.TestCase):
    def test_plain(self):
        answer = complete()
        self.assertTrue(answer.choices[0].message.content)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_guard(self):
        choice = complete(extra_body={"guard": STRICT}).choices[0]
        guard = choice.provider_specific_fields["guard"]
        self.assertEqual((guard["verdict"], guard["threshold"]), ("flagged", 1.0))
        for span in guard["spans"]:
            self.assertEqual(choice.message.content[span["start"] : span["end"]], span["text"])

    def test_stream(self):
        whole = complete(extra_body={"guard": STRICT}).choices[0].message.content
        chunks = list(complete(stream=True, extra_body={"guard": STRICT}))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), whole)
        self.assertEqual(litellm.stream_chunk_builder(chunks).choices[0].message.content, whole)
        self.assertIn(chunks[-1].choices[0].finish_reason, ("stop", "length"))
        # LiteLLM hands on the spans that chunks close, and drops what the last chunk says.
        closed = [span for c in chunks for span in (getattr(c.choices[0], "guard", None) or {}).get("spans", [])]
        self.assertTrue(all(whole[span["start"] : span["end"]] == span["text"] for span in closed) and closed)

    def test_system_message(self):
        answer = complete(messages=[{"role": "system", "content": "Be brief."}, *messages()])
        self.assertEqual(answer.choices[0].message.content, complete().choices[0].message.content)

    def test_errors_are_its_exceptions(self):
        with self.assertRaises(litellm.BadRequestError) as caught:
            complete(messages=messages(url="data:image/jpeg;base64,AAAA"))
        self.assertIn("image", str(caught.exception))
        with self.assertRaises(litellm.NotFoundError):
            complete(model="openai/gpt-4o")


if __name__ == "__main__":
    unittest.main()
