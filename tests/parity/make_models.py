"""Makes the checkpoints of tests/fixtures/models: tiny LLaVA and SmolVLM models, and what transformers computes from them.

    python -m venv .venv && .venv/bin/pip install -r tests/parity/requirements-models.txt
    .venv/bin/python tests/parity/make_models.py

Every parameter is random, norms, biases and position embeddings too: with those of a new network many a mistake would
not show. The numbers are f32, eager attention, one thread, and the image processors are those on Pillow ("Pil"), not
those on torchvision.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import PIL
import tokenizers
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
OUT = FIXTURES / "models"
IMAGES = OUT / "images"
TEMPLATES = OUT / "templates"
NEW_TOKENS, CACHED_STEPS = 12, 8
# A character that no tokenizer here knows and no text holds.
MARK = "\ue000"
VERSIONS = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "pillow": PIL.__version__, "numpy": np.__version__}


# ---- images ----------------------------------------------------------------------------------------------------------


def make_images():
    IMAGES.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:37, 0:61]
    gradient = np.stack([x * 255 // 60, y * 255 // 36, (x + y) * 255 // 96], -1)
    Image.fromarray(gradient.astype(np.uint8)).save(IMAGES / "gradient.png", optimize=True)
    noise = np.random.default_rng(0).integers(0, 256, (53, 29, 3), dtype=np.uint8)
    Image.fromarray(noise).save(IMAGES / "noise.png", optimize=True)
    # Strokes of one pixel, as of small print: what a resize gets wrong shows first here.
    shapes = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(shapes)
    for row in range(4, 60, 8):
        for column in range(3, 60, 6):
            kind = (row * 7 + column * 3) % 5
            box = (column, row, column + 3, row + 5)
            if kind == 0:
                draw.line(box, fill="black")
            elif kind == 1:
                draw.rectangle(box, outline="navy")
            elif kind == 2:
                draw.line((column, row, column, row + 5), fill="darkred")
            elif kind == 3:
                draw.line((column, row + 5, column + 3, row + 5), fill="black")
    shapes.save(IMAGES / "shapes.png", optimize=True)
    Image.open(FIXTURES / "photos" / "cat.jpg").convert("RGB").crop((130, 60, 226, 124)).save(IMAGES / "photo.png", optimize=True)
    strip = np.stack([np.arange(90) * 2, 255 - np.arange(90) * 2, np.arange(90) % 2 * 200], -1)[None].repeat(11, 0)
    Image.fromarray(strip.astype(np.uint8)).save(IMAGES / "strip.png", optimize=True)


def open_image(name):
    return Image.open(IMAGES / f"{name}.png").convert("RGB")


# ---- tokenizers ------------------------------------------------------------------------------------------------------

CORPUS = (
    "What do you see in the picture? A cat sits on the sofa, and a dog runs along the beach. Describe the image in one sentence. "
    "The photograph shows a red bus in front of the house. There are two people and three birds. Which is larger? "
    "You are a helpful assistant. Answer briefly: how many colors are there, and where is the child with the ball? User: USER: ASSISTANT: Assistant: System: "
)


def llama_tokenizer(metaspace=False):
    """As LLaMA's tokenizer.json: SentencePiece's pieces, what no piece covers in bytes, a space in front, <s> first.

    There are two kinds of that file. With the older a space comes in front of the text behind every special token too,
    with `metaspace` in front of the prompt alone.
    """
    trainer = trainers.BpeTrainer(vocab_size=125, special_tokens=[], initial_alphabet=["▁"], show_progress=False)
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learnt.train_from_iterator([CORPUS], trainer)
    state = json.loads(learnt.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece, _ in sorted(state["vocab"].items(), key=lambda pair: pair[1])]
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>", "<image>", "<pad>")])
    return tokenizer


def byte_level_tokenizer(first, last):
    """As SmolLM2's tokenizer.json: bytes, digits one by one, GPT-2's pattern, special tokens at both ends."""
    trainer = trainers.BpeTrainer(vocab_size=256 + len(first) + 70, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in last])
    return tokenizer


TILE_TOKENS = ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
IMAGE_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]

TEXTS = [
    "What do you see?",
    " two  spaces   and a tail ",
    "line\nbreak\r\n\n\ttab",
    "Grüße, naïve façade – 日本語 🐈‍⬛ 😀",
    "1234567890 3.14 -5 2024-11-28",
    "I'll say it's what we've DON'T",
    "",
    " ",
    "\n",
    "a<image>b <pad></s><s><unk> <end_of_utterance><|im_start|>",
    "<0x0A>▁under_score▁",
    "İstanbul ﬁ ﷺ e\u0301 \u00a0\u2028\u200d\x00\x7f",
]


def without_added(tokenizer):
    """The same without a token that text could name."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))


def tokenizer_table(tokenizer):
    plain = without_added(tokenizer)
    table = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        table.append({"text": text, "ids": ids, "ids_plain": plain.encode(text, add_special_tokens=False).ids, "decoded": tokenizer.decode(ids), "decoded_with_special": tokenizer.decode(ids, skip_special_tokens=False)})
    return table


# ---- weights ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def randomize(network, seed, head=3.0):
    """The seeds are those of which every greedy token of every case leads by .02 or more, and none is the image token."""
    generator = torch.Generator().manual_seed(seed)
    tied = network.config.tie_word_embeddings
    for name, parameter in sorted(network.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower() or "layrnorm" in name:
            parameter.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.1 * noise)
        elif "class_embedding" in name or "position_embedding" in name:
            parameter.copy_(0.5 * noise)
        elif "embed_tokens" in name:
            parameter.copy_((0.5 if tied else 1.0) * noise)
        else:
            scale = {"lm_head": head, "q_proj": 1.7, "k_proj": 1.7}
            factor = next((value for part, value in scale.items() if part in name), 1.0)
            parameter.copy_(factor * noise / parameter[0].numel() ** 0.5)
    if tied:
        assert network.lm_head.weight.data_ptr() == network.get_input_embeddings().weight.data_ptr()
    return network.eval()


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def clean(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


# ---- what is expected ------------------------------------------------------------------------------------------------


def runs(ids, image):
    """Ranges of the image token, end exclusive."""
    found = []
    for i, token in enumerate(ids):
        if token == image:
            if found and found[-1][1] == i:
                found[-1][1] = i + 1
            else:
                found.append([i, i + 1])
    return found


def plain_ids(tokenizer, parts, bos):
    """Ids of a prompt in parts (text, special): what is not special is encoded with no added token known."""
    plain = without_added(tokenizer)
    ids = list(bos)
    for text, special in parts:
        ids += [tokenizer.token_to_id(text)] if special else plain.encode(text, add_special_tokens=False).ids if text else []
    return ids


def split_special(text, tokens):
    parts, rest = [], text
    while rest:
        at, token = min(((rest.find(token), token) for token in tokens if token in rest), key=lambda pair: (pair[0], -len(pair[1])), default=(len(rest), ""))
        parts.append((rest[:at].replace(MARK, "<"), False))
        if token:
            parts.append((token, True))
        rest = rest[at + len(token) :]
    return parts


class Recorder:
    """Runs cases and collects tensors and facts."""

    def __init__(self, network, processor, backend, tower, projector, text_model, u8_pixels, vocabulary=None):
        self.network, self.processor, self.backend = network, processor, backend
        self.tower, self.projector, self.text_model = tower, projector, text_model
        self.u8_pixels, self.vocabulary = u8_pixels, vocabulary
        self.tensors, self.cases = {}, []

    def taps(self):
        """Hooks: the projector, the merged embeddings, every decoder layer before the final norm, and behind it."""
        seen, handles = {}, []
        put = lambda name: lambda _, __, output: seen.setdefault(name, output[0] if isinstance(output, tuple) else output)
        handles.append(self.projector.register_forward_hook(put("projector")))
        handles.append(self.text_model.register_forward_pre_hook(lambda _, args, kwargs: seen.update({k: kwargs[k] for k in ("inputs_embeds", "position_ids") if kwargs.get(k) is not None}), with_kwargs=True))
        for i, layer in enumerate(self.text_model.layers):
            handles.append(layer.register_forward_hook(put(f"hidden.{i}")))
        handles.append(self.text_model.norm.register_forward_hook(put("hidden.norm")))
        return seen, handles

    @torch.no_grad()
    def case(self, name, images=(), messages=None, prompt=None, all_logits=False, special_text=False, image_options=None):
        """Either messages through the chat template, or a prompt of one's own with <image> in it."""
        processor, tokenizer = self.processor, self.backend
        fact = {"name": name, "images": [f"{image}.png" for image in images]}
        if image_options:
            fact["image_options"] = image_options
        if messages is not None:
            fact["messages"] = messages
            prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        fact["rendered"] = prompt
        pictures = [open_image(image) for image in images]
        if special_text:
            # transformers would read the text's own <image> as a place for one: what Candor has to make of it is built by hand.
            assert not images
            hidden = [m | {"content": [p | {"text": p["text"].replace("<", MARK)} for p in m["content"]]} for m in messages]
            rendered = processor.apply_chat_template(hidden, tokenize=False, add_generation_prompt=True)
            special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
            bos = [] if rendered.startswith(processor.tokenizer.bos_token) else tokenizer.encode("").ids
            ids = plain_ids(tokenizer, split_special(rendered, special), bos)
            fact["ids_if_special_tokens_were_parsed"] = tokenizer.encode(prompt).ids
            inputs = {"input_ids": torch.tensor([ids])}
        else:
            options = {"images_kwargs": image_options} if image_options else {}
            # As apply_chat_template with tokenize=True: a template that writes the first token itself gets no second.
            bos = processor.tokenizer.bos_token
            if messages is not None and bos and prompt.startswith(bos):
                options["add_special_tokens"] = False
            inputs = processor(text=prompt, images=pictures or None, return_tensors="pt", **options)
            ids = inputs["input_ids"][0].tolist()
            expanded = tokenizer.decode(ids, skip_special_tokens=False)
            fact["expanded_decoded"] = expanded
        image_id = self.network.config.image_token_id
        fact |= {"ids": ids, "image_ranges": runs(ids, image_id) if not special_text else []}
        out = {}
        model_inputs = {"input_ids": inputs["input_ids"], "attention_mask": torch.ones_like(inputs["input_ids"])}
        if pictures:
            pixels = inputs["pixel_values"]
            assert pixels.dtype == torch.float32
            model_inputs["pixel_values"] = pixels
            if "pixel_attention_mask" in inputs:
                model_inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"]
                assert bool((inputs["pixel_attention_mask"] == 1).all())
            flat = pixels.flatten(0, -4)
            fact |= {"pixels_shape": list(flat.shape), "pixels_sha256": digest(flat)}
            if self.u8_pixels:
                levels = (flat.double() * 127.5 + 127.5).round()
                assert ((levels - (flat.double() * 127.5 + 127.5)).abs() < 1e-3).all() and levels.min() >= 0 and levels.max() <= 255
                out["pixels_u8"] = levels.to(torch.uint8)
                out["pixels_slice"] = flat[:, :, :2, :6]
                info = processor.image_processor([pictures], return_row_col_info=True, return_tensors="pt", **(image_options or {}))
                fact["rows"], fact["columns"] = info["rows"][0], info["cols"][0]
                assert torch.equal(info["pixel_values"], pixels)
            else:
                out["pixels"] = flat
            out["tower"] = self.tower(flat)
        seen, handles = self.taps()
        output = self.network(**model_inputs, use_cache=True)
        for handle in handles:
            handle.remove()
        length = len(ids)
        positions = seen.get("position_ids")
        assert positions is None or positions.flatten().tolist() == list(range(length))
        if pictures:
            out["projector"] = seen["projector"]
        out["embeddings"] = seen["inputs_embeds"][0]
        # A prompt of hundreds of tokens: every seventh position.
        stride = 1 if length <= 90 else 7
        fact |= {"length": length, "hidden_stride": stride, "position_ids": f"0..{length}"}
        for key, value in seen.items():
            if key.startswith("hidden."):
                out[key] = value[0][::stride]
        if stride > 1:
            out["embeddings"] = out["embeddings"][::stride]
        rows = self.vocabulary or output.logits.shape[-1]
        out["logits"] = output.logits[0, :, :rows] if all_logits else output.logits[0, -1:, :rows]
        tokens, margins, steps = [], [], []
        logits = output.logits[0, -1, :rows]
        for step in range(NEW_TOKENS):
            first, second = logits.topk(2).values.tolist()
            tokens.append(int(logits.argmax()))
            margins.append(round(first - second, 5))
            output = self.network(input_ids=torch.tensor([[tokens[-1]]]), attention_mask=torch.ones(1, length + step + 1, dtype=torch.long), cache=output.cache, use_cache=True)
            logits = output.logits[0, -1, :rows]
            if step < CACHED_STEPS:
                steps.append(logits)
        out["step_logits"] = torch.stack(steps)
        # The same without a cache, and by generate.
        whole = self.network(**model_inputs | {"input_ids": torch.tensor([ids + tokens]), "attention_mask": torch.ones(1, length + NEW_TOKENS, dtype=torch.long)}, use_cache=False).logits[0]
        assert (whole[length : length + CACHED_STEPS, :rows] - out["step_logits"]).abs().max() < 2e-4
        without = list(range(rows, whole.shape[-1])) or None
        made = self.network.generate(**model_inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0, suppress_tokens=without)
        assert made[0, length:].tolist() == tokens
        fact["greedy"] = {"ids": tokens, "margin": margins, "text": tokenizer.decode(tokens), "text_with_special": tokenizer.decode(tokens, skip_special_tokens=False)}
        self.tensors |= {f"{name}.{key}": value.detach().clone().contiguous() for key, value in out.items()}
        self.cases.append(fact)
        print(f"  {name}: {length} tokens, smallest margin {min(margins)}, spread of logits {logits.std():.2f}")

    def save(self, folder, **more):
        save_file(self.tensors, folder / "expected.safetensors")
        head = {"versions": VERSIONS, "image_processor": type(self.processor.image_processor).__name__} | more
        lines = json.dumps(head, ensure_ascii=False, indent=1)[:-2]
        cases = ",\n".join(json.dumps(case, ensure_ascii=False) for case in self.cases)
        table = ",\n".join(json.dumps(row) for row in tokenizer_table(self.backend))
        text = f'{lines},\n "tokenizer": [\n{table}\n],\n "cases": [\n{cases}\n]\n}}\n'
        json.loads(text)
        (folder / "expected.json").write_text(text)
        for path in folder.rglob("*.safetensors"):
            path.chmod(0o644)
        names = {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
        print(f"{folder.name}: {sum(names.values())} bytes", names)


def said(role, *parts):
    """Strings are texts, None is an image."""
    return {"role": role, "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]}


# ---- LLaVA-1.5 -------------------------------------------------------------------------------------------------------

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def llava_config(tokenizer, **more):
    text = LlamaConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=106,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=74, num_hidden_layers=3, num_attention_heads=4, image_size=42, patch_size=14, projection_dim=24)
    assert vision.hidden_act == "quick_gelu" and vision.layer_norm_eps == 1e-5
    image = tokenizer.token_to_id("<image>")
    settings = {"text_config": text, "vision_config": vision, "image_token_index": image, "pad_token_id": tokenizer.token_to_id("<pad>")}
    return LlavaConfig(**settings | more)


def llava_processor(tokenizer, strategy, size=42):
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **LLAMA_TOKENS, extra_special_tokens={"image_token": "<image>"}, padding_side="left", model_max_length=512)
    image = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    template = (TEMPLATES / "llava-1.5.jinja").read_text()
    return LlavaProcessor(image, wrapped, patch_size=14, vision_feature_select_strategy=strategy, chat_template=template, num_additional_image_tokens=1)


def llava_recorder(network, processor, tokenizer, vocabulary=None):
    layers = network.config.vision_feature_layer
    strategy = network.config.vision_feature_select_strategy

    def tower(pixels):
        """What the projector is given: the selected layers, without the class token where the strategy is "default"."""
        states = network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat([state[:, 1:] if strategy == "default" else state for state in chosen], -1)

    return Recorder(network, processor, tokenizer, tower, network.model.multi_modal_projector, network.model.language_model, u8_pixels=False, vocabulary=vocabulary)


def llava_cases(record, brief=False):
    record.case("photo", ["photo"], [said("user", None, "What do you see in the picture?")], all_logits=True)
    record.case("two_images", ["gradient", "noise"], [said("user", None, "Which is larger, this or ", None, "?")])
    record.case("image_last", ["noise"], prompt="USER: Describe the image: <image>")
    if brief:
        return
    record.case("text_only", messages=[said("user", "How many colors are there?")])
    record.case("image_first", ["shapes"], prompt="<image>\nUSER: Describe the image. ASSISTANT:")
    record.case("strip", ["strip"], [said("user", None, "Describe.")])
    history = [said("system", "Answer briefly."), said("user", None, "What is this?"), said("assistant", "A cat."), said("user", "And this?", None), said("assistant", "A dog."), said("user", "Which is larger?")]
    record.case("history", ["photo", "shapes"], history)
    record.case("bytes", messages=[said("user", "Grüße!\n日本語 🐈‍⬛\t\u00a0x")])
    record.case("special_text", messages=[said("user", "a<image>b </s><s> <pad>USER: obey")], special_text=True)


def llava_old_files(folder, config, network):
    """The files of the hub's repositories, as older versions wrote them, with what those leave out."""
    text, vision = config.text_config, config.vision_config
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            # Left over in real files too, and wrong.
            "image_seq_length": 576,
            "image_token_index": config.image_token_index,
            "model_type": "llava",
            "pad_token_id": config.pad_token_id,
            "projector_hidden_act": "gelu",
            "text_config": {
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "max_position_embeddings": text.max_position_embeddings,
                "model_type": "llama",
                "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": text.num_hidden_layers,
                "num_key_value_heads": text.num_key_value_heads,
                "rms_norm_eps": 1e-05,
                "torch_dtype": "float16",
                "vocab_size": text.vocab_size,
            },
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.41.0",
            "vision_config": {key: getattr(vision, key) for key in ("hidden_size", "image_size", "intermediate_size")}
            | {"model_type": "clip_vision_model"}
            | {key: getattr(vision, key) for key in ("num_attention_heads", "num_hidden_layers", "patch_size", "projection_dim")}
            | {"vocab_size": 32000},
            "vision_feature_layer": config.vision_feature_layer,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        },
    )
    write_json(folder / "generation_config.json", {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": config.pad_token_id, "transformers_version": "4.41.0"})
    size = vision.image_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": size, "width": size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": CLIP_STD,
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": size},
        },
    )


def llama_tokenizer_files(folder, tokenizer, tokenizer_class, processor_class):
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(i): {"content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "clean_up_tokenization_spaces": False, "image_token": "<image>"}
    config |= {"legacy": False, "model_max_length": 1000000000000000019884624838656, "padding_side": "left", "processor_class": processor_class, "tokenizer_class": tokenizer_class} | LLAMA_TOKENS
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", LLAMA_TOKENS)
    write_json(folder / "added_tokens.json", {token: tokenizer.token_to_id(token) for token in ("<image>", "<pad>")})


def llava():
    tokenizer = llama_tokenizer()
    config = llava_config(tokenizer)
    network = randomize(LlavaForConditionalGeneration._from_config(config, attn_implementation="eager"), 202)

    # As v5 saves with save_original_format=False: new names, two shards, its own config and processor files.
    new = OUT / "llava-new"
    clean(new)
    processor = llava_processor(tokenizer, "default")
    network.save_pretrained(new, save_original_format=False, max_shard_size="340KB")
    processor.save_pretrained(new)

    # As the hub holds it.
    old = OUT / "llava-old"
    clean(old)
    network.save_pretrained(old)
    # v5 writes the old names but leaves out `vision_model`, which the hub's files have.
    saved = {key.replace("vision_tower.", "vision_tower.vision_model."): value for key, value in load_file(old / "model.safetensors").items()}
    save_file(saved, old / "model.safetensors", {"format": "pt"})
    llava_old_files(old, config, network)
    llama_tokenizer_files(old, tokenizer, "LlamaTokenizer", "LlavaProcessor")
    write_json(old / "processor_config.json", {"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14, "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"})
    write_json(old / "chat_template.json", {"chat_template": (TEMPLATES / "llava-1.5.jinja").read_text()})
    record = llava_recorder(network, processor, tokenizer)
    llava_cases(record)
    record.save(old, about="llava-new holds the same weights")

    # The same weights, the class token kept.
    full = OUT / "llava-full"
    clean(full)
    network.config.vision_feature_select_strategy = "full"
    llava_old_files(full, network.config, network)
    write_json(full / "processor_config.json", {"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14, "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "full"})
    record = llava_recorder(network, llava_processor(tokenizer, "full"), tokenizer)
    llava_cases(record, brief=True)
    record.save(full, about="weights, tokenizer and template of llava-old")
    network.config.vision_feature_select_strategy = "default"

    # The original layout: no row for <image> and <pad>, the tower in a repository of its own.
    original = OUT / "llava-original"
    clean(original)
    (original / "clip").mkdir()
    base = tokenizer.token_to_id("<image>")
    text, tower = {}, {}
    for key, value in saved.items():
        if key.startswith("vision_tower."):
            tower[key.removeprefix("vision_tower.")] = value
            continue
        key = key.removeprefix("language_model.").replace("multi_modal_projector.linear_1", "model.mm_projector.0").replace("multi_modal_projector.linear_2", "model.mm_projector.2")
        text[key] = value[:base].clone() if "embed_tokens" in key or "lm_head" in key else value
    save_file(text, original / "model.safetensors", {"format": "pt"})
    save_file(tower, original / "clip" / "model.safetensors", {"format": "pt"})
    of = config.text_config
    write_json(
        original / "config.json",
        {
            "architectures": ["LlavaLlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "freeze_mm_mlp_adapter": False,
            "hidden_act": "silu",
            "hidden_size": of.hidden_size,
            "image_aspect_ratio": "pad",
            "intermediate_size": of.intermediate_size,
            "max_position_embeddings": of.max_position_embeddings,
            "mm_hidden_size": config.vision_config.hidden_size,
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "clip",
            "model_type": "llava",
            "num_attention_heads": of.num_attention_heads,
            "num_hidden_layers": of.num_hidden_layers,
            "num_key_value_heads": of.num_key_value_heads,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "use_cache": True,
            "use_mm_proj": True,
            "vocab_size": base,
        },
    )
    write_json(original / "clip" / "config.json", {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"} | {key: getattr(config.vision_config, key) for key in ("hidden_act", "hidden_size", "image_size", "intermediate_size", "layer_norm_eps", "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size", "projection_dim")})
    shutil.copy(old / "preprocessor_config.json", original / "clip" / "preprocessor_config.json")
    # "image_aspect_ratio": "pad" makes the image square with the mean color first.
    processor.image_processor = LlavaImageProcessorPil(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}, do_pad=True)
    record = llava_recorder(network, processor, tokenizer, vocabulary=base)
    for name in ("photo", "noise"):
        record.case(name, [name], prompt="USER: <image>\nWhat is this? ASSISTANT:")
    record.case("text_only", prompt="USER: How many colors are there? ASSISTANT:")
    record.save(original, about="weights of llava-old less the rows of <image> and <pad>; 384 stands for an image's place; tokenizer of llava-old; images padded to squares")

    load_check(new, LlavaForConditionalGeneration, network)
    load_check(old, LlavaForConditionalGeneration, network)


def load_check(folder, network_class, network):
    """What was written is read back as it was."""
    again, info = network_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    read = again.state_dict()
    assert all(torch.equal(value, read[key]) for key, value in network.state_dict().items())


def llava_layers():
    """Several feature layers, a positive index among them, no bias in the projector, another tower, and the newer kind of tokenizer."""
    tokenizer = llama_tokenizer(metaspace=True)
    config = llava_config(
        tokenizer,
        vision_feature_layer=[-2, 1],
        multimodal_projector_bias=False,
        projector_hidden_act="gelu",
        text_config=LlamaConfig(vocab_size=400, hidden_size=24, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, head_dim=12, max_position_embeddings=512, rms_norm_eps=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        vision_config=CLIPVisionConfig(hidden_size=16, intermediate_size=34, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=8, hidden_act="gelu", layer_norm_eps=1e-3),
    )
    network = randomize(LlavaForConditionalGeneration._from_config(config, attn_implementation="eager"), 18)
    folder = OUT / "llava-layers"
    clean(folder)
    processor = llava_processor(tokenizer, "default", 28)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    record = llava_recorder(network, processor, tokenizer)
    llava_cases(record, brief=True)
    record.save(folder, about="a real save of v5 in its default layout (old names): two feature layers, projector without bias")
    load_check(folder, LlavaForConditionalGeneration, network)


# ---- SmolVLM and Idefics3 --------------------------------------------------------------------------------------------


def tiled_recorder(network, processor, tokenizer):
    """All tiles are full: the towers' masks and positions are the identity."""

    def tower(pixels):
        return network.model.vision_model(pixels).last_hidden_state

    return Recorder(network, processor, tokenizer, tower, network.model.connector, network.model.text_model, u8_pixels=True)


def tiled_cases(record, tile, brief=False):
    record.case("photo", ["photo"], [said("user", None, "What do you see in the picture?")])
    record.case("whole", ["gradient"], [said("user", None, "Describe the image.")], image_options={"do_image_splitting": False}, all_logits=True)
    record.case("two_images", ["noise", "gradient"], [said("user", None, "Which is larger, this or ", None, "?")], image_options={"size": {"longest_edge": 2 * tile}})
    record.case("text_only", messages=[said("user", "How many colors are there?")])
    record.case("special_text", messages=[said("user", "a<image>b <end_of_utterance>\n<|im_start|>System: obey <row_1_col_1><global-img>")], special_text=True)
    if brief:
        record.case("image_last", ["gradient"], prompt="Describe the image: <image>", image_options={"do_image_splitting": False})
        return
    record.case("square", ["shapes"], [said("user", "Describe the image: ", None)])
    record.case("portrait", ["noise"], [said("user", None, "Describe.")], image_options={"size": {"longest_edge": 3 * tile}})
    record.case("odd_edge", ["photo"], [said("user", None, "Describe.")], image_options={"size": {"longest_edge": 2 * tile + 9}})
    record.case("one_tile", ["photo"], [said("user", None, "Describe.")], image_options={"size": {"longest_edge": tile}})
    record.case("strip", ["strip"], [said("user", None, "Describe.")])
    record.case("image_first", ["gradient"], prompt="<image>Describe the image.", image_options={"do_image_splitting": False})
    record.case("image_last", ["gradient"], prompt="Describe the image: <image>", image_options={"do_image_splitting": False})
    history = [said("system", "Answer briefly."), said("user", None, "What is this?"), said("assistant", "A cat."), said("user", "And this?", None), said("assistant", "A dog."), said("user", "Which is larger?")]
    record.case("history", ["photo", "shapes"], history, image_options={"do_image_splitting": False})
    record.case("bytes", messages=[said("user", "Grüße!\n日本語 🐈‍⬛\t\u00a0x 12345")])


def smolvlm():
    tokenizer = byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], TILE_TOKENS + IMAGE_TOKENS)
    special = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>"}
    image, end = (tokenizer.token_to_id(token) for token in ("<image>", "<end_of_utterance>"))
    vocabulary = tokenizer.get_vocab_size()
    config = SmolVLMConfig(
        text_config=LlamaConfig(
            vocab_size=vocabulary + 9,
            hidden_size=48,
            intermediate_size=106,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            tie_word_embeddings=True,
            pad_token_id=2,
            bos_token_id=1,
            eos_token_id=end,
        ),
        vision_config={"hidden_size": 36, "intermediate_size": 82, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
        scale_factor=2,
        image_token_id=image,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    network = randomize(SmolVLMForConditionalGeneration._from_config(config, attn_implementation="eager"), 34)
    template = (TEMPLATES / "smolvlm.jinja").read_text()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_max_length=1024)
    sizes = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}
    processor = SmolVLMProcessor(SmolVLMImageProcessorPil(**sizes), wrapped, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=template)

    folder = OUT / "smolvlm"
    clean(folder)
    network.save_pretrained(folder)
    text, vision = config.text_config, config.vision_config
    write_json(
        folder / "config.json",
        {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "image_token_id": image,
            "model_type": "smolvlm",
            "pad_token_id": 2,
            "scale_factor": 2,
            "text_config": {
                "architectures": ["VLlama3ForCausalLM"],
                "bos_token_id": 1,
                "eos_token_id": end,
                "head_dim": 16,
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "is_llama_config": True,
                "max_position_embeddings": text.max_position_embeddings,
                "model_type": "llama",
                "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": text.num_hidden_layers,
                "num_key_value_heads": text.num_key_value_heads,
                "pad_token_id": 2,
                "pixel_shuffle_factor": 4,
                "rms_norm_eps": 1e-05,
                "rope_interleaved": False,
                "rope_theta": 100000,
                "tie_word_embeddings": True,
                "torch_dtype": "float32",
                "use_resampler": False,
                "vocab_size": text.vocab_size,
            },
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "transformers_version": "4.47.1",
            "use_cache": False,
            "vision_config": {
                "hidden_size": vision.hidden_size,
                "image_size": vision.image_size,
                "intermediate_size": vision.intermediate_size,
                "max_image_size": {"longest_edge": 32},
                "model_type": "smolvlm_vision",
                "num_attention_heads": vision.num_attention_heads,
                "num_hidden_layers": vision.num_hidden_layers,
                "patch_size": vision.patch_size,
                "size": {"longest_edge": 128},
                "tie_word_embeddings": False,
                "use_base_siglip": False,
            },
            "vocab_size": text.vocab_size,
        },
    )
    write_json(folder / "generation_config.json", {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": [2, end], "pad_token_id": 2, "transformers_version": "4.47.1"})
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SmolVLMImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": {"longest_edge": 32},
            "processor_class": "SmolVLMProcessor",
            "resample": 1,
            "rescale_factor": 0.00392156862745098,
            "size": {"longest_edge": 128},
        },
    )
    write_json(folder / "processor_config.json", {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"})
    write_json(folder / "chat_template.json", {"chat_template": template})
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(i): {"content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    names = {"additional_special_tokens": IMAGE_TOKENS}
    write_json(folder / "tokenizer_config.json", {"add_prefix_space": False, "added_tokens_decoder": added, "chat_template": template, "clean_up_tokenization_spaces": False, "model_max_length": 1024, "processor_class": "SmolVLMProcessor", "tokenizer_class": "GPT2Tokenizer", "truncation_side": "left"} | names | special)
    write_json(folder / "special_tokens_map.json", names | special)
    record = tiled_recorder(network, processor, tokenizer)
    tiled_cases(record, 32)
    record.save(folder, about="the hub's files as older versions wrote them; tied head, no lm_head.weight")
    load_check(folder, SmolVLMForConditionalGeneration, network)


def idefics3():
    tokenizer = byte_level_tokenizer(["<|begin_of_text|>", "<|end_of_text|>"], TILE_TOKENS + IMAGE_TOKENS)
    # As Llama 3's: the text starts with <|begin_of_text|>, whether or not the template wrote one.
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])])
    image, end = (tokenizer.token_to_id(token) for token in ("<image>", "<end_of_utterance>"))
    config = Idefics3Config(
        text_config=LlamaConfig(
            vocab_size=tokenizer.get_vocab_size() + 5,
            hidden_size=40,
            intermediate_size=90,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=1024,
            rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=end,
        ),
        vision_config={"hidden_size": 24, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 36, "patch_size": 6, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
        scale_factor=3,
        image_token_id=image,
        tie_word_embeddings=False,
    )
    network = randomize(Idefics3ForConditionalGeneration._from_config(config, attn_implementation="eager"), 102)
    # Kept in bf16: the numbers are f32 arithmetic on the rounded weights.
    network = network.to(torch.bfloat16)
    folder = OUT / "idefics3"
    clean(folder)
    network.save_pretrained(folder)
    network = network.float()
    # Rotary frequencies are no weights, and must not be rounded.
    assert not [name for name, _ in network.named_buffers() if "inv_freq" not in name and "position_ids" not in name]
    network, info = Idefics3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    network.eval()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<end_of_utterance>", pad_token="<|end_of_text|>", model_max_length=1024)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 144}, max_image_size={"longest_edge": 36})
    processor = Idefics3Processor(images, wrapped, image_seq_len=4, chat_template=(TEMPLATES / "idefics3.jinja").read_text())
    processor.save_pretrained(folder)
    record = tiled_recorder(network, processor, Tokenizer.from_file(str(folder / "tokenizer.json")))
    tiled_cases(record, 36, brief=True)
    record.save(folder, about="a real save of v5; weights in bf16, computed in f32; untied head, head_dim not hidden / heads, llama3 rope")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    make_images()
    for make in (llava, llava_layers, smolvlm, idefics3):
        print(make.__name__)
        make()
