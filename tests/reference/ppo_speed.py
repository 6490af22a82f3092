"""One iteration of token-wise PPO in plain PyTorch, with the same networks, photographs, batch and steps as `candor train ppo --config config/align.toml`.

    pip install torch transformers tokenizers safetensors numpy
    python tests/reference/ppo_speed.py --policy models/candor-mini --features runs/features/train.f16

TRL's PPO trainer cannot show a model an image (it generates from token ids alone), so that the loop is written out here as TRL does it: every answer is a row of its own, left of it its
image and its prompt; generation with a key/value cache by transformers; then the policy, the reference and the scorer read the answers, and four minibatches follow. What has to do with words
(the lexicon, CIDEr-D) is left out: it favours PyTorch. Prints seconds and samples a second, of every iteration and their median.
"""

import argparse
import json
import time

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--policy", required=True)
parser.add_argument("--features", required=True)
parser.add_argument("--views", type=int, default=4)
parser.add_argument("--images", type=int, default=48)
parser.add_argument("--samples", type=int, default=5)
parser.add_argument("--iterations", type=int, default=6)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.manual_seed(31)
torch.set_num_threads(args.threads)

config = json.load(open(f"{args.policy}/config.json"))["model"]
tokenizer = Tokenizer.from_file(f"{args.policy}/tokenizer.json")
EOS = tokenizer.token_to_id("<|end|>")
PROMPT = tokenizer.encode("<|user|>describe this photograph.<|assistant|>", add_special_tokens=False).ids
TOKENS, CHANNELS = config["connector"]["tokens"], config["connector"]["in_features"]
TEMPERATURE, MAX_TOKENS, BETA = 0.8, 40, 0.02


class Connector(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(CHANNELS)
        self.fc1, self.fc2 = torch.nn.Linear(CHANNELS, width), torch.nn.Linear(width, width)
        self.pos = torch.nn.Parameter(torch.zeros(TOKENS, width))

    def forward(self, images):
        return self.fc2(F.gelu(self.fc1(self.norm(images)))) + self.pos


class Network(torch.nn.Module):
    """The policy, or a scorer of the same shape."""

    def __init__(self, weights, prefix=""):
        super().__init__()
        decoder = config["decoder"]
        self.connector = Connector(decoder["hidden_size"])
        self.decoder = LlamaForCausalLM(LlamaConfig(**decoder, attn_implementation="sdpa"))
        own = {k[len(prefix):]: v.float() for k, v in weights.items() if k.startswith(prefix)}
        missing, _ = self.load_state_dict({k: v for k, v in own.items() if k.startswith(("connector.", "decoder."))}, strict=False)
        assert set(missing) <= {"decoder.lm_head.weight"}, missing
        self.decoder.tie_weights()

    def prefix(self, images):
        prompt = self.decoder.model.embed_tokens(torch.tensor(PROMPT)).expand(len(images), -1, -1)
        return torch.cat([self.connector(images), prompt], 1)

    def states(self, images, answers, each):
        """States that predict the answers' tokens: (rows, longest answer, width)."""
        prefix = self.prefix(images).repeat_interleave(each, 0)
        embedded = torch.cat([prefix, self.decoder.model.embed_tokens(answers)], 1)
        states = self.decoder.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states[:, prefix.shape[1] - 1 : -1]


def log_probs(network, states, answers):
    logits = network.decoder.lm_head(states) / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]


weights = load_file(f"{args.policy}/model.safetensors")
policy, reference = Network(weights), Network(weights).requires_grad_(False)
scorer = Network(load_file(f"{args.policy}/reward.safetensors"), "detached.").requires_grad_(False)
width = config["decoder"]["hidden_size"]
head = torch.nn.Linear(width, 1)
value = torch.nn.Sequential(torch.nn.Linear(width, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1))
optimiser = torch.optim.AdamW([*policy.parameters(), *value.parameters()], lr=2e-4, betas=(0.9, 0.98), weight_decay=0.0)
features = numpy.memmap(args.features, dtype=numpy.float16, mode="r", offset=32).reshape(-1, args.views, TOKENS, CHANNELS)


def iteration(number):
    which = [(number * args.images + i) % len(features) for i in range(args.images)]
    images = torch.from_numpy(numpy.stack([features[i, i % args.views] for i in which]).astype(numpy.float32))
    begun = time.time()
    with torch.no_grad():
        prefix = policy.prefix(images).repeat_interleave(args.samples, 0)
        answers = policy.decoder.generate(
            inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long), do_sample=True, temperature=TEMPERATURE,
            top_k=0, max_new_tokens=MAX_TOKENS, eos_token_id=EOS, pad_token_id=EOS,
        )
        drawn = time.time() - begun
        ends = (answers == EOS).int().cumsum(1)
        mask = ((ends == 0) | ((answers == EOS) & (ends == 1))).float()
        states = policy.states(images, answers, args.samples)
        old, values = log_probs(policy, states, answers), value(states)[..., 0]
        kept = log_probs(reference, reference.states(images, answers, args.samples), answers)
        # A token's reward is read from the state behind it.
        rewards = torch.sigmoid(head(scorer.states(images, answers, args.samples))[..., 0]) - BETA * (old - kept)
        advantages, after = torch.zeros_like(rewards), 0.0
        following = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1) * torch.cat([mask[:, 1:], torch.zeros(len(mask), 1)], 1)
        for t in reversed(range(rewards.shape[1])):
            after = (rewards[:, t] + following[:, t] - values[:, t] + 0.95 * after) * mask[:, t]
            advantages[:, t] = after
        returns = advantages + values
        mean = (advantages * mask).sum() / mask.sum()
        advantages = (advantages - mean) / (((advantages - mean) ** 2 * mask).sum() / mask.sum()).sqrt()
    for chosen in torch.randperm(args.images).chunk(4):
        rows = (chosen[:, None] * args.samples + torch.arange(args.samples)).flatten()
        said, weight = answers[rows], mask[rows]
        states = policy.states(images[chosen], said, args.samples)
        ratio = (log_probs(policy, states, said) - old[rows]).clamp(-10, 10).exp()
        gain = torch.min(ratio * advantages[rows], ratio.clamp(0.8, 1.2) * advantages[rows])
        now = value(states.detach())[..., 0]
        clipped = values[rows] + (now - values[rows]).clamp(-0.2, 0.2)
        error = 0.5 * torch.max((now - returns[rows]) ** 2, (clipped - returns[rows]) ** 2)
        loss = ((0.5 * error - gain) * weight).sum() / weight.sum()
        # What people wrote: one text an image.
        human = said[:: args.samples]
        states = policy.states(images[chosen], human, 1)
        loss = loss + 0.5 * F.cross_entropy(policy.decoder.lm_head(states).flatten(0, 1), human.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    return time.time() - begun, drawn, int(mask.sum())


times = []
for number in range(args.iterations):
    seconds, drawn, tokens = iteration(number)
    times.append(seconds)
    print(f"{seconds:.2f} s, rollouts {drawn:.2f} s ({tokens / drawn:.0f} tokens/s), {tokens} tokens", flush=True)
median = sorted(times[1:])[len(times[1:]) // 2]
print(f"median without the first: {median:.2f} s an iteration, {args.images * args.samples / median:.1f} samples/s")
