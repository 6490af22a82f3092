"""BLEU, ROUGE-L and CIDEr-D of captions by the field's reference code (pycocoevalcap 1.2; needs Java).

    python tests/reference/caption_metrics.py --hypotheses FILE.jsonl --references DIR [--split dev] [--digits 4]
    python tests/reference/caption_metrics.py --leave-one-out K --references DIR [--split dev] [--digits 4]

Hypotheses: one JSON object a line with `image` (file name) and `caption`; or caption K of every image, against the others.
References: a folder in Flickr8k's layout. Prints JSON.
"""

import argparse
import contextlib
import json
import pathlib
import sys

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def references(folder, split):
    names = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
    captions = {name: [] for name in names}
    for line in (folder / "captions.tsv").read_text(encoding="utf-8").splitlines():
        name, _, caption = line.split("\t")
        if name in captions:
            captions[name].append(caption)
    return captions


def hypotheses(path, truth):
    said = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        said[row["image"]] = row["caption"]
    missing = [name for name in truth if name not in said]
    if missing:
        sys.exit(f"{path}: no caption for {len(missing)} of {len(truth)} images, {missing[0]} for one")
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--hypotheses", type=pathlib.Path)
    source.add_argument("--leave-one-out", type=int, metavar="K")
    parser.add_argument("--references", type=pathlib.Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--digits", type=int, default=4)
    args = parser.parse_args()
    truth = references(args.references, args.split)
    if args.hypotheses:
        said = hypotheses(args.hypotheses, truth)
    else:
        said = {name: captions.pop(args.leave_one_out) for name, captions in truth.items()}
    with contextlib.redirect_stdout(sys.stderr):
        tokenizer = PTBTokenizer()
        gts = tokenizer.tokenize({n: [{"caption": c} for c in cs] for n, cs in truth.items()})
        res = tokenizer.tokenize({n: [{"caption": said[n]}] for n in truth})
        bleu, _ = Bleu(4).compute_score(gts, res)
        rouge, _ = Rouge().compute_score(gts, res)
        cider, _ = Cider().compute_score(gts, res)
    words = sum(len(r[0].split()) for r in res.values()) / len(res)
    figures = {f"BLEU-{n + 1}": b for n, b in enumerate(bleu)} | {"ROUGE-L": rouge, "CIDEr-D": cider, "words": words, "images": len(res)}
    print(json.dumps({k: round(float(v), args.digits) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
