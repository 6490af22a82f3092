"""LangChain's ChatOpenAI against a running Candor: langchain_client.py BASE_URL PHOTO.jpg"""

import os
import unittest

os.environ["LANGSMITH_TRACING"] = "false"
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from common import BASE_URL, STRICT, data_url

MESSAGES = [HumanMessage([{"type": "text", "text": "What is in this picture?"}, {"type": "image_url", "image_url": {"url": data_url()}}])]
#: LangChain's own way to write an image.
STANDARD = [
    HumanMessage(
        [
            {"type": "text", "text": "What is in this picture?"},
            {"type": "image", "base64": data_url().split(",")[1], "mime_type": "image/jpeg"},
        ]
    )
]


def model(**more):
    return ChatOpenAI(**{"model": "candor-mini", "base_url": BASE_URL, "api_key": "unused", "max_retries": 0, **more})


class LangChain(unittest.TestCase):
    def test_invoke(self):
        answer = model().invoke(MESSAGES)
        self.assertTrue(answer.content)
        self.assertEqual(answer.response_metadata["model_name"], "candor-mini")
        self.assertGreater(answer.usage_metadata["output_tokens"], 0)
        self.assertEqual(model().invoke(STANDARD).content, answer.content)

    def test_conversation(self):
        # LangChain writes earlier answers and system messages in shapes of its own.
        turns = [SystemMessage("Be brief."), *MESSAGES, AIMessage("A dog."), HumanMessage("What is in this picture?")]
        answer = model(include_response_headers=True).invoke(turns)
        self.assertEqual(answer.content, model().invoke(MESSAGES).content)
        self.assertEqual(answer.response_metadata["headers"]["x-candor-warnings"], "3")

    def test_stream(self):
        strict = model(extra_body={"guard": STRICT}, stream_usage=True)
        chunks = list(strict.stream(MESSAGES))
        self.assertEqual("".join(c.text for c in chunks), strict.invoke(MESSAGES).content)
        self.assertGreater(sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata), 0)

    def test_guard(self):
        # LangChain keeps the response's headers, and drops fields that it does not know.
        headers = lambda guard: model(extra_body={"guard": guard}, include_response_headers=True).invoke(MESSAGES).response_metadata["headers"]
        self.assertEqual(headers(STRICT)["x-candor-verdict"], "flagged")
        self.assertEqual(headers({"mode": "off"})["x-candor-verdict"], "unscored")

    def test_logprobs(self):
        answer = model(logprobs=True, top_logprobs=2, extra_body={"guard": STRICT}).invoke(MESSAGES)
        tokens = answer.response_metadata["logprobs"]["content"]
        self.assertEqual(b"".join(bytes(t["bytes"]) for t in tokens).decode(), answer.content)

    def test_errors_are_openais(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            model(extra_body={"guard": {"mode": "strict"}}).invoke(MESSAGES)
        self.assertEqual(caught.exception.param, "guard.mode")


if __name__ == "__main__":
    unittest.main()
