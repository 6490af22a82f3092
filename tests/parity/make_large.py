"""Writes a LLaVA-shaped checkpoint of 300 million random weights in bf16, to measure loading and memory.

    .venv/bin/python tests/parity/make_large.py OUT

Tokenizer, template and processor are those of `tests/fixtures/models/llava-old`; the sizes are those of a CLIP ViT-L of
12 layers at 336 pixels and of a LLaMA of 12 layers. Two shards with an index.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SOURCE = Path(__file__).parent.parent / "fixtures/models/llava-old"
WIDTH, INNER, LAYERS, HEADS = 1024, 2816, 12, 16
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 13, "num_attention_heads": 16,
          "image_size": 336, "patch_size": 14, "model_type": "clip_vision_model"}


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        if file.suffix == ".json" and not file.name.startswith("expected"):
            shutil.copy(file, out / file.name)
    config = json.loads((SOURCE / "config.json").read_text())
    vocab = config["text_config"]["vocab_size"]
    config["text_config"] |= {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
                              "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "torch_dtype": "bfloat16",
                              "max_position_embeddings": 4096}
    config["vision_config"] |= VISION
    config["torch_dtype"] = "bfloat16"
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("preprocessor_config.json",):
        files = json.loads((SOURCE / name).read_text())
        files["size"], files["crop_size"] = {"shortest_edge": 336}, {"height": 336, "width": 336}
        (out / name).write_text(json.dumps(files, indent=2))
    processor = json.loads((SOURCE / "processor_config.json").read_text())
    processor["patch_size"] = 14
    (out / "processor_config.json").write_text(json.dumps(processor, indent=2))

    generator = torch.Generator().manual_seed(0)

    def matrix(*shape):
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(torch.bfloat16)

    def vector(size, around):
        return (around + 0.1 * torch.randn(size, generator=generator)).to(torch.bfloat16)

    text, vision = {}, {}
    for i in range(LAYERS):
        at = f"language_model.model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            text[f"{at}self_attn.{name}.weight"] = matrix(WIDTH, WIDTH)
        for name in ("gate_proj", "up_proj"):
            text[f"{at}mlp.{name}.weight"] = matrix(INNER, WIDTH)
        text[f"{at}mlp.down_proj.weight"] = matrix(WIDTH, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            text[f"{at}{name}.weight"] = vector(WIDTH, 1)
    text["language_model.model.norm.weight"] = vector(WIDTH, 1)
    text["language_model.model.embed_tokens.weight"] = matrix(vocab, WIDTH)
    text["language_model.lm_head.weight"] = matrix(vocab, WIDTH)

    width, inner = VISION["hidden_size"], VISION["intermediate_size"]
    at = "vision_tower.vision_model."
    vision[f"{at}embeddings.class_embedding"] = vector(width, 0)
    vision[f"{at}embeddings.patch_embedding.weight"] = matrix(width, 3, 14, 14)
    vision[f"{at}embeddings.position_embedding.weight"] = matrix(577, width)
    for name in ("pre_layrnorm", "post_layernorm"):
        vision[f"{at}{name}.weight"], vision[f"{at}{name}.bias"] = vector(width, 1), vector(width, 0)
    for i in range(VISION["num_hidden_layers"]):
        layer = f"{at}encoder.layers.{i}."
        shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width),
                  "self_attn.v_proj": (width, width), "self_attn.out_proj": (width, width),
                  "mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in shapes.items():
            vision[f"{layer}{name}.weight"], vision[f"{layer}{name}.bias"] = matrix(*shape), vector(shape[0], 0)
        for name in ("layer_norm1", "layer_norm2"):
            vision[f"{layer}{name}.weight"], vision[f"{layer}{name}.bias"] = vector(width, 1), vector(width, 0)
    for name, shape in {"linear_1": (WIDTH, width), "linear_2": (WIDTH, WIDTH)}.items():
        vision[f"multi_modal_projector.{name}.weight"] = matrix(*shape)
        vision[f"multi_modal_projector.{name}.bias"] = vector(shape[0], 0)

    shards = {"model-00001-of-00002.safetensors": text, "model-00002-of-00002.safetensors": vision}
    index = {"metadata": {}, "weight_map": {}}
    for name, tensors in shards.items():
        save_file(tensors, out / name)
        index["weight_map"] |= dict.fromkeys(tensors, name)
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    print(sum(t.numel() for s in shards.values() for t in s.values()), "weights")


main(Path(sys.argv[1]))
