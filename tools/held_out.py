#!/usr/bin/env python3
"""Makes a data folder of the photographs that the embedded bundle's evidence network did not learn from.

    tools/held_out.py --data ../shared/data --out runs/held-out [--parts 3,4]

Photographs of coco-mini, daquar and vqa-rad fall into five parts by their content, as `src/eval/honesty/mod.rs` has it. The folder has the same files with
the rows of these parts alone; photographs are links to the originals.
"""

import argparse
import hashlib
import json
from pathlib import Path

PARTS = 5


def part(photograph):
    """The part of a photograph by its file."""
    return int.from_bytes(hashlib.sha256(photograph.read_bytes()).digest()[:8], "big") % PARTS


def linked(photographs, out):
    """Links to the chosen photographs in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for photograph in photographs:
        link = out / photograph.name
        link.unlink(missing_ok=True)
        link.symlink_to(photograph.resolve())


def coco(data, out, is_chosen):
    """COCO's layout: rows of images and annotations by the image's number."""
    instances = json.loads((data / "instances.json").read_text())
    chosen = [image for image in instances["images"] if is_chosen(data / "images" / image["file_name"])]
    numbers = {image["id"] for image in chosen}
    linked([data / "images" / image["file_name"] for image in chosen], out / "images")
    for name in ["instances.json", "captions.json"]:
        whole = json.loads((data / name).read_text())
        for key, number in [("images", "id"), ("annotations", "image_id")]:
            whole[key] = [row for row in whole[key] if row[number] in numbers]
        (out / name).write_text(json.dumps(whole))
    return len(chosen)


def questions(data, out, is_chosen):
    """A line a question, with the name of its photograph."""
    lines = (data / "questions.jsonl").read_text().splitlines()
    rows = [(json.loads(line)["image"], line) for line in lines if line.strip()]
    chosen = {name for name in {name for name, _ in rows} if is_chosen(data / "images" / name)}
    linked([data / "images" / name for name in sorted(chosen)], out / "images")
    (out / "questions.jsonl").write_text("".join(f"{line}\n" for name, line in rows if name in chosen))
    return len(chosen)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default="3,4")
    args = parser.parse_args()
    parts = {int(number) for number in args.parts.split(",")}
    for name, select in [("coco-mini", coco), ("daquar", questions), ("vqa-rad", questions)]:
        if (args.data / name).is_dir():
            count = select(args.data / name, args.out / name, lambda photograph: part(photograph) in parts)
            print(f"{name}: {count} photographs")


if __name__ == "__main__":
    main()
