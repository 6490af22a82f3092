"""Records what transformers computes from a checkpoint, for `candor selftest --reference DIR`.

    pip install "transformers>=5.24" torch pillow safetensors
    python tools/record_reference.py CHECKPOINT OUT [--picture FILE]... [--dtype float32]
    candor selftest --model CHECKPOINT --reference OUT

CHECKPOINT is a folder in Hugging Face's form (LLaVA-1.5, Idefics3, SmolVLM, LLaMA, Qwen2), and is read without network
and without code of its own. Run it on the weights that Candor is given, on a machine with memory for them in the dtype;
weights of bf16 are exact in float32. OUT gets:

- reference.json: for every case its messages, pictures, tokens of the prompt (`ids`), runs of the image token, end
  exclusive (`image_ranges`), and the first 12 tokens of the likeliest answer, whatever they are (`greedy`);
- reference.safetensors: `CASE.pixels`, the input of the vision tower, (tiles, 3, height, width), and `CASE.logits`, those
  of the last position of the prompt, (1, vocabulary), both in float32;
- images/: the pictures, as PNG, so that no decoder of photographs plays a part. Two are drawn; --picture adds yours.

Image processors are those on Pillow: those on torchvision differ by a level here and there.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

TOKENS = 12
LOCAL = {"local_files_only": True, "trust_remote_code": False}
QUESTIONS = ["What do you see in the picture?", "Describe the image in one sentence."]


def draw_pictures():
    """A landscape of slopes, and a portrait with thin lines: what a resize gets wrong shows first in them."""
    slopes = Image.new("RGB", (96, 64))
    slopes.putdata([(x * 255 // 95, y * 255 // 63, (x + y) * 255 // 158) for y in range(64) for x in range(96)])
    lines = Image.new("RGB", (60, 90), "white")
    draw = ImageDraw.Draw(lines)
    for i, color in enumerate(["black", "navy", "darkred", "green", "black", "purple"]):
        draw.line((5, 5 + 15 * i, 55, 12 + 14 * i), fill=color)
        draw.rectangle((8 * i + 3, 40, 8 * i + 8, 52), outline=color)
    return {"slopes": slopes, "lines": lines}


def said(role, *parts):
    """Strings are texts, None is an image."""
    return {"role": role, "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]}


def runs(ids, token):
    """Ranges of a token, end exclusive."""
    found = []
    for i, _ in (pair for pair in enumerate(ids) if pair[1] == token):
        if found and found[-1][1] == i:
            found[-1][1] = i + 1
        else:
            found.append([i, i + 1])
    return found


class Recorder:
    def __init__(self, checkpoint, dtype):
        self.config = AutoConfig.from_pretrained(checkpoint, **LOCAL)
        self.sees = hasattr(self.config, "vision_config")
        kind = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        self.network = kind.from_pretrained(checkpoint, dtype=dtype, attn_implementation="eager", **LOCAL).eval()
        if self.sees:
            self.processor = AutoProcessor.from_pretrained(checkpoint, **LOCAL)
            # Not given to AutoProcessor, which would want a video processor of that kind, too.
            self.processor.image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **LOCAL)
            self.tokenizer = self.processor.tokenizer
        else:
            self.tokenizer = self.processor = AutoTokenizer.from_pretrained(checkpoint, **LOCAL)
        self.cases, self.tensors = [], {}

    @property
    def image_token(self):
        found = getattr(self.config, "image_token_id", None)
        return getattr(self.config, "image_token_index", None) if found is None else found

    def inputs(self, messages, pictures):
        given = messages if self.sees else [{"role": m["role"], "content": "".join(p["text"] for p in m["content"])} for m in messages]
        prompt = self.processor.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        # A template that writes the first token itself gets no second.
        bos = self.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
        if self.sees:
            return prompt, self.processor(text=prompt, images=pictures or None, return_tensors="pt", **options)
        return prompt, self.tokenizer(prompt, return_tensors="pt", **options)

    @torch.no_grad()
    def case(self, name, messages, pictures=None):
        pictures = pictures or {}
        prompt, inputs = self.inputs(messages, list(pictures.values()))
        # Of a batch of one prompt nothing is padded.
        kept = {key: value for key, value in inputs.items() if key in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")}
        ids = kept["input_ids"][0].tolist()
        fact = {"name": name, "images": [f"{picture}.png" for picture in pictures], "messages": messages, "rendered": prompt, "ids": ids}
        fact["image_ranges"] = runs(ids, self.image_token) if pictures else []
        if pictures:
            pixels = kept["pixel_values"].float()
            pixels = pixels.flatten(0, -4).contiguous()
            self.tensors[f"{name}.pixels"] = pixels
            fact["pixels_sha256"] = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
            kept["pixel_values"] = kept["pixel_values"].to(self.network.dtype)
        logits = self.network(**kept).logits[0, -1:].float()
        self.tensors[f"{name}.logits"] = logits.contiguous()
        made = self.network.generate(**kept, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        greedy = made[0, len(ids) :].tolist()
        first, second = logits[0].topk(2).values.tolist()
        fact["greedy"] = {"ids": greedy, "text": self.tokenizer.decode(greedy), "margin_of_first": round(first - second, 5)}
        self.cases.append(fact)
        print(f"{name}: {len(ids)} tokens, answer {fact['greedy']['text']!r}, lead of its first token {first - second:.4f}")

    def save(self, out):
        save_file(self.tensors, out / "reference.safetensors")
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        facts = {"versions": versions, "dtype": str(self.network.dtype), "cases": self.cases}
        (out / "reference.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--picture", type=Path, action="append", default=[], metavar="FILE", help="picture of your own; may be repeated")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()

    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(args.checkpoint, getattr(torch, args.dtype))
    recorder.case("text", [said("user", "How many colors does a rainbow have?")])
    if recorder.sees:
        pictures = draw_pictures()
        pictures |= {f"own_{i}": Image.open(path).convert("RGB") for i, path in enumerate(args.picture)}
        for i, (name, picture) in enumerate(pictures.items()):
            picture.save(folder / f"{name}.png")
            recorder.case(name, [said("user", None, QUESTIONS[i % len(QUESTIONS)])], {name: picture})
        both = {name: pictures[name] for name in ("slopes", "lines")}
        recorder.case("two_images", [said("user", None, "What differs between this and ", None, "?")], both)
    recorder.save(args.out)


if __name__ == "__main__":
    main()
