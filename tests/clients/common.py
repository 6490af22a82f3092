"""What the Python clients' tests share: the server's address and a photograph, from the command line (CLIENT.py BASE_URL PHOTO.jpg)."""

import base64
import sys

BASE_URL, PHOTO = sys.argv.pop(1), sys.argv.pop(1)
#: Every word is under this threshold, so that something is flagged.
STRICT = {"mode": "flag", "threshold": 1.0}


def data_url():
    with open(PHOTO, "rb") as photo:
        return "data:image/jpeg;base64," + base64.b64encode(photo.read()).decode()


def messages(text="What is in this picture?", url=None):
    image = {"type": "image_url", "image_url": {"url": url or data_url()}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]
