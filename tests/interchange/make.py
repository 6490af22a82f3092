"""Writes files as other tools write them, for Candor to read: every Parquet codec, TRL's forms of preference rows, and typography."""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet

folder = Path(sys.argv[1])
file = Path("tests/fixtures/photos/cat.jpg").read_bytes()
other = file + b"\0"
image = {"bytes": file, "path": "cat.jpg"}


def write(name, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet", **options)


pair = {"image": image, "question": "Describe.", "chosen": "A cat.", "rejected": "A dog."}
for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
    write(f"codec-{codec}", [pair] * 3, compression=codec)

typography = [
    ("A man’s dog is on the grass.", "A man's dog is on the grass."),
    ("A brown dog", "A brown dog."),
    ("A cafe\u0301 &amp; a bar…", "A café & a bar..."),
    ("the dog — asleep", "The dog - asleep."),
]
write("typography", [{**pair, "chosen": chosen, "rejected": rejected} for chosen, rejected in typography])
write("mixed", [{**pair, "chosen": "A man’s cat …", "rejected": "A man's dog."}])


def said(role, content):
    return {"role": role, "content": content}


def parts(role, text):
    return said(role, [{"type": "image", "text": None}, {"type": "text", "text": text}])


ask, cat, dog = said("user", "Describe."), said("assistant", "A cat."), said("assistant", "A dog.")
plain = {"prompt": "Describe.", "chosen": "A cat.", "rejected": "A dog."}
taken = {
    "plain": {"images": [image], **plain},
    "image": {"image": image, **plain},
    "raw": {"images": [file], **plain},
    "placeholder": {"images": [image], **plain, "prompt": "<image>\nDescribe."},
    "messages": {"images": [image], "prompt": [ask], "chosen": [cat], "rejected": [dog]},
    "implicit": {"images": [image], "chosen": [ask, cat], "rejected": [ask, dog]},
    "both": {"images": [image], "prompt": "Describe.", "chosen": [ask, cat], "rejected": [ask, dog]},
    "parts": {"images": [image], "prompt": [parts("user", "Describe.")], "chosen": [parts("assistant", "A cat.")], "rejected": [parts("assistant", "A dog.")]},
    "dialog": {"images": [image], "chosen": "\n\nHuman: Describe.\n\nAssistant: A cat.", "rejected": "\n\nHuman: Describe.\n\nAssistant: A dog."},
    "dialog-prompt": {"images": [image], "prompt": "\n\nHuman: Describe.\n\nAssistant:", "chosen": "A cat.", "rejected": "A dog."},
    "system": {"images": [image], "prompt": [said("system", "Be brief."), ask], "chosen": [cat], "rejected": [dog], "score_chosen": 0.5},
    "path": {"images": [{"bytes": None, "path": "deep/photo.jpg"}], **plain},
}
refused = {
    "two-images": {"images": [image, {"bytes": other, "path": None}], **plain},
    "same-image-twice": {"images": [image, image], **plain},
    "two-columns": {"images": [image], "image": {"bytes": other, "path": None}, **plain},
    "no-image": {"images": [], **plain},
    "nowhere": {"images": [{"bytes": None, "path": "../gone.jpg"}], **plain},
    "turns": {"images": [image], "prompt": [ask, cat, said("user", "And?")], "chosen": [cat], "rejected": [dog]},
    "implicit-turns": {"images": [image], "chosen": [ask, cat, ask, cat], "rejected": [ask, cat, ask, dog]},
    "answers": {"images": [image], "prompt": [ask], "chosen": [cat, ask, cat], "rejected": [dog, ask, dog]},
    "role": {"images": [image], "prompt": [ask], "chosen": [said("user", "A cat.")], "rejected": [said("user", "A dog.")]},
    "other-prompt": {"images": [image], "prompt": "Why?", "chosen": [ask, cat], "rejected": [ask, dog]},
    "tool": {"images": [image], "prompt": [ask], "chosen": [said("tool", "A cat.")], "rejected": [dog]},
}
for name, row in taken.items():
    write(f"taken-{name}", [row])
for name, row in refused.items():
    write(f"refused-{name}", [row, row])
