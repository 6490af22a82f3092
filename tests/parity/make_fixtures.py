"""Makes tests/fixtures/parity: small random networks with what PyTorch and transformers compute from them.

    python -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt && .venv/bin/python tests/parity/make_fixtures.py
"""

import zipfile
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import BlockDecoder, get_model_params
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent.parent / "fixtures" / "parity"


def save(name, tensors):
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, OUT / name)


def randomise_norms(network):
    """Statistics as after a training: with those of a new network many a mistake would not show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 4)
            module.bias.data.normal_(0.5, 0.5)


@torch.no_grad()
def efficientnet_lite():
    blocks = ["r1_k3_s11_e1_i32_o16", "r2_k3_s22_e3_i16_o24", "r2_k5_s22_e2_i24_o40", "r1_k5_s11_e2_i40_o48", "r2_k5_s22_e2_i48_o56"]
    _, params = get_model_params("efficientnet-lite0", {"image_size": 64})
    network = EfficientNet(BlockDecoder.decode(blocks), params).eval()
    randomise_norms(network)
    taps = {}
    network._blocks[5].register_forward_hook(lambda _, __, output: taps.update(mid=output))
    pixels = torch.randn(2, 3, 64, 64)
    head = network.extract_features(pixels)
    batch, c, side, _ = taps["mid"].shape
    # Each final cell's four finer cells in reading order, channels fastest.
    finer = taps["mid"].reshape(batch, c, side // 2, 2, side // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(batch, (side // 2) ** 2, 4 * c)
    tokens = torch.cat([head.flatten(2).transpose(1, 2), finer], -1)
    weights = {key: value for key, value in network.state_dict().items() if not key.startswith("_fc")}
    save("efficientnet_lite.safetensors", {**weights, "pixels": pixels, "tokens": tokens})


class Mlp(nn.Module):
    def __init__(self, inner, width, tokens):
        super().__init__()
        self.norm = nn.LayerNorm(inner)
        self.fc1 = nn.Linear(inner, width)
        self.fc2 = nn.Linear(width, width)
        self.pos = nn.Parameter(torch.randn(tokens, width))

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(self.norm(x)))) + self.pos


@torch.no_grad()
def prefix_decoder():
    """Image features through a projector into a LLaMA whose image positions see each other."""
    connector = Mlp(24, 32, 5)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    decoder = LlamaForCausalLM(config).eval()
    for name, parameter in (*connector.named_parameters(), *decoder.named_parameters()):
        # Wide enough that attention is far from uniform and every bias and norm counts.
        parameter.normal_(1, 0.2) if "norm" in name and "weight" in name else parameter.normal_(0, 0.3)
    features = torch.randn(2, 5, 24) * 3
    ids = torch.randint(0, 64, (2, 11))
    image = connector(features)
    embeds = torch.cat([image, decoder.model.embed_tokens(ids)], 1)
    length = embeds.shape[1]
    seen = torch.ones(length, length).tril().bool()
    seen[:5, :5] = True
    mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None].expand(2, 1, -1, -1)
    output = decoder(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True, use_cache=False)
    tensors = {f"connector.{key}": value for key, value in connector.state_dict().items()}
    tensors |= {f"decoder.{key}": value for key, value in decoder.state_dict().items() if key != "lm_head.weight"}
    tensors |= {"features": features, "image": image, "ids": ids.to(torch.uint32), "logits": output.logits}
    # Behind every layer; transformers applies the final norm to the last.
    tensors |= {f"hidden.{i}": state for i, state in enumerate(output.hidden_states[1:])}
    save("prefix_decoder.safetensors", tensors)


def state_dicts():
    """Both formats of torch.save and a wheel, with a transposed view and what is no weight."""
    values = torch.arange(24, dtype=torch.float32)
    weights = {
        "plain": values.reshape(2, 3, 4),
        "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
        "part": values[5:11].reshape(2, 3),
        "counter": torch.tensor(7),
    }
    torch.save(weights, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(OUT / "wheel.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("package/__init__.py", "")
        wheel.write(OUT / "legacy.pth", "package/models/weights.pth")
    torch.save({key: value.contiguous().clone() for key, value in weights.items()}, OUT / "zipped.pth")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for make in (efficientnet_lite, prefix_decoder, state_dicts):
        make()
