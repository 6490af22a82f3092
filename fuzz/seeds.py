"""Makes the first inputs of the targets: python3 fuzz/seeds.py FOLDER. Parquet needs Python's package pyarrow; without it, that target begins with a file's head."""

import io
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/attack"))

import bombs  # noqa: E402
import wire  # noqa: E402

PIXEL = bombs.png(1, 1)


def images():
    for folder in ("images", "photos"):
        for path in sorted((ROOT / "tests/fixtures" / folder).iterdir()):
            if path.suffix in (".jpg", ".png", ".gif", ".webp", ".bmp") and path.stat().st_size < 12_000:
                yield path.read_bytes()
    yield from [PIXEL, bombs.png(3, 5, 6, 16), bombs.png(9, 2, 0, 1), bombs.gif(9, 9, 3), bombs.bmp(9, 9), bombs.png(1, 5000), bombs.png_huge_chunk()]
    yield from [bombs.jpeg_progressive(17, 9, components, 70) for components in (1, 3, 4)]


def chats():
    url = wire.data_url(PIXEL, "image/png")
    options = [
        {}, {"temperature": 1.0, "top_p": 1e-45, "seed": -1, "n": 3}, {"stream": True, "stream_options": {"include_usage": True}, "stop": ["a", "\u00e9"]},
        {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 5, "user": "u"}, {"guard": {"mode": "regenerate", "candidates": 4, "render": "hedged"}},
        {"guard": {"threshold": 0.4, "on_exhausted": "omit", "thresholds": {"object": 0.3}}, "presence_penalty": -2, "frequency_penalty": 2, "top_k": 40},
        {"tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "store": False, "metadata": None, "n": None, "modalities": ["text"]},
    ]  # fmt: skip
    for more in options:
        yield json.dumps(wire.chat(url, "What is it?", **more) | {"model": "m"}).encode()
    turns = [{"role": role, "content": text} for role, text in (("system", "Be short."), ("user", [{"type": "text", "text": "a"}]), ("assistant", "b"))]
    yield json.dumps({"model": "m", "messages": [*turns, {"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}).encode()


def scores():
    url, message = wire.data_url(PIXEL, "image/png"), wire.chat(wire.data_url(PIXEL, "image/png"))["messages"]
    yield json.dumps({"model": "m", "image_url": url, "prompt": "What?", "response": "A dog."}).encode()
    yield json.dumps({"model": "m", "messages": message, "response": "A dog.", "author": "model", "guard": {"mode": "score"}}).encode()
    yield json.dumps({"model": "m", "items": [{"image_url": {"url": url}, "response": "a"}, {"messages": message, "response": "b"}]}).encode()


def tokens(text, rewards):
    """The text in the form of the target `guard`: words with rewards in turn."""
    out = b"\x02\x01"
    for i, word in enumerate(text.split(" ")):
        piece = ((" " if i else "") + word).encode()
        for at in range(0, len(piece), 15):
            part = piece[at : at + 15]
            out += bytes([rewards[i % len(rewards)] << 4 | len(part)]) + part
    return out


def texts():
    for text in ["A dog – wet – catches a frisbee.", "- **Two** cats\n- a [dog](https://a.b)\n\n| a | b |\n|---|---|\n| 1 | 2 |", '{"caption": "a \\u0064og", "tags": ["x", {"y": 1}]}',
                 "```json\n[1, 2]\n```\nNot a cat.", "&amp; 50% (of 3) e\u0301 \U0001f415\u200d\U0001f9ba don\u2019t", "<b>A</b> man is holding the umbrella, and a woman is not."]:  # fmt: skip
        yield tokens(text, (9, 2, 15, 4))
        yield b"\x02\x02" + tokens(text, (1,))[2:]


def templates():
    bundled = (ROOT / "src/vlm/chat_template.jinja").read_bytes()
    yield bundled + b"\0What is it? <|user|>"
    yield b"{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content | trim }}{% endif %}{% endfor %}{{ '<|assistant|>' }}\0hi"
    yield b"{{ messages[0]['content'] | upper | replace('A', 'B') }}{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}"
    yield b"{% macro t(m) %}{{ m.role ~ ': ' ~ m.content }}{% endmacro %}{{ t(messages | last) }}{{ messages | tojson }}"


def tasks():
    """Label Studio's, and JSON lines."""
    region = {"from_name": "error", "to_name": "text", "type": "labels", "id": "a", "value": {"start": 2, "end": 5, "text": "dog", "labels": ["error"]}}
    verdict = {"from_name": "verdict", "to_name": "text", "type": "choices", "value": {"choices": ["bad"]}}
    area = {"from_name": "correction", "to_name": "text", "type": "textarea", "id": "a", "value": {"start": 2, "end": 5, "text": ["cat"]}}
    data = {"image": wire.data_url(PIXEL, "image/png"), "prompt": "", "text": "A dog."}
    yield json.dumps([{"id": 1, "data": data, "annotations": [{"result": [verdict, region, area], "completed_by": {"email": "a@b"}}], "predictions": []}]).encode()
    yield b"\xef\xbb\xbf" + json.dumps([{"image": "a.jpg", "prompt": "", "text": "A dog.", "verdict": "good", "annotation_id": 3, "id": 2}]).encode()
    yield json.dumps({"prompt": "", "completions": ["A", " dog"], "labels": [True, False], "image": "4" * 64}).encode() + b"\n"
    for path in sorted((ROOT / "tests/interchange").rglob("*.json*")):
        if path.stat().st_size < 8_000:
            yield path.read_bytes()


def tables():
    yield b"PAR1\x15\x04\x19\x00PAR1"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    user, dog, cat = ([{"role": "user", "content": "What?"}], [{"role": "assistant", "content": "A dog."}], [{"role": "assistant", "content": "A cat."}])
    image = {"bytes": PIXEL, "path": None}
    rows = {"images": [[image]] * 2, "prompt": [user] * 2, "chosen": [cat] * 2, "rejected": [dog] * 2}
    silence = {"image": [image], "question": ["What?"], "chosen": ["A cat."], "rejected": ["A dog."], "ds_name": [""], "idx": [0], "origin_dataset": [""]}
    for table, codec in [(rows, "none"), (rows, "zstd"), (rows, "brotli"), (silence, "gzip"), (silence, "lz4"), (silence, "snappy"), ({"record": ["{}"], "image": [PIXEL]}, "none")]:
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(table), out, compression=codec, write_statistics=False, store_schema=False)
        yield out.getvalue()


SEEDS = {"image": images, "chat_request": chats, "score_request": scores, "guard": texts, "template": templates, "parquet": tables, "label_studio": tasks}

if __name__ == "__main__":
    for target, make in SEEDS.items():
        folder = pathlib.Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(make()):
            (folder / f"seed-{i:02d}").write_bytes(seed)
