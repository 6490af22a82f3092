"""Words of texts as the field's reference code cuts them (pycocoevalcap 1.2; needs Java).

    python tests/reference/ptb_tokens.py < TEXTS.json > WORDS.json

Reads a JSON array of strings; prints one of the same length: each text's tokens with a space between.
"""

import contextlib
import json
import sys

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def main():
    texts = json.load(sys.stdin)
    # A lone period between two texts: some abbreviations look at the line that follows.
    said = {n: [{"caption": text}, {"caption": "."}] for n, text in enumerate(texts)}
    with contextlib.redirect_stdout(sys.stderr):
        words = PTBTokenizer().tokenize(said)
    print(json.dumps([words[n][0] for n in said]))


if __name__ == "__main__":
    main()
