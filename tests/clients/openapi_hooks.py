"""What schemathesis is told beside the API's description: an image, so that many of the requests that it makes are answered."""

import base64
import os

import schemathesis
from hypothesis import strategies

with open(os.environ["PHOTO"], "rb") as photo:
    url = "data:image/jpeg;base64," + base64.b64encode(photo.read()).decode()

schemathesis.openapi.format("image-data-url", strategies.just(url))
