"""The numbers of src/train/losses as TRL computes them: tests/fixtures/alignment_losses.json.

pip install trl==0.11.4 transformers==4.45.2 datasets==3.0.1 torch; python tests/reference/alignment_losses.py > tests/fixtures/alignment_losses.json

TRL pads answers to one length; ours lie behind one another, so padding is cut off from what is written.
"""

import json
from types import SimpleNamespace

import torch
from trl import DPOTrainer, PPOConfig, PPOTrainer
from trl.trainer import AdaptiveKLController
from trl.core import masked_mean

torch.manual_seed(3)
LENGTHS = [5, 1, 8, 3]
longest = max(LENGTHS)
mask = torch.tensor([[1.0] * n + [0.0] * (longest - n) for n in LENGTHS])


def drawn(scale=1.0, shift=0.0):
    return (torch.randn(len(LENGTHS), longest) * scale + shift) * mask


old = drawn(0.8, -2.0)
reference = old + drawn(0.3)
new = old + drawn(0.25)
values, rewards = drawn(0.5), drawn(0.4)
new_values = values + drawn(0.3)
changed = (torch.rand(len(LENGTHS), longest) > 0.6).float() * mask

ppo = SimpleNamespace(
    config=PPOConfig(gamma=1.0, lam=0.95, whiten_rewards=False, cliprange=0.2, cliprange_value=0.2, vf_coef=1.0, batch_size=4, mini_batch_size=4),
)
_, advantages, returns = PPOTrainer.compute_advantages(ppo, values.clone(), rewards.clone(), mask)

# PPOTrainer.loss, whose logits serve its entropy alone.
logits = torch.zeros(len(LENGTHS), longest, 7)
policy_loss, value_loss, _ = PPOTrainer.loss(ppo, old, values, logits, new_values, new, mask, advantages, returns)


def kl(kind):
    ppo.config.kl_penalty = kind
    return PPOTrainer._kl_penalty(ppo, old, reference)


d = old - reference
assert torch.equal(kl("kl"), d)
k3 = torch.exp(-d) - 1 + d

controller = AdaptiveKLController(0.2, 6.0, 10000)
distances, betas = [1.0, 12.0, 6.5, 40.0, 5.9], []
for distance in distances:
    controller.update(distance, 256)
    betas.append(controller.value)

better, worse, reference_better, reference_worse = (torch.randn(6) * 4 - 20 for _ in range(4))


def dpo(beta):
    this = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        reference_free=False,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        loss_type="sigmoid",
        label_smoothing=0.0,
        beta=beta,
    )
    return DPOTrainer.dpo_loss(this, better, worse, reference_better, reference_worse)[0]


# RLHF-V's average of weighted log-probabilities.
weights = mask * (1.0 + 4.0 * changed)
dense = (new * weights).sum(-1) / weights.sum(-1)


def cut(x):
    return [row[:n].tolist() for row, n in zip(x, LENGTHS)]


def flat(x):
    return sum(cut(x), [])


named = {
    "old_log_probs": old,
    "reference_log_probs": reference,
    "log_probs": new,
    "values": values,
    "new_values": new_values,
    "rewards": rewards,
    "returns": returns,
    "changed": changed,
}
print(
    json.dumps(
        {
            "sequences": [{name: cut(x)[i] for name, x in named.items()} for i in range(len(LENGTHS))],
            "advantages": flat(advantages),
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "k1": flat(kl("kl")),
            "k2": flat(kl("mse")),
            "k3": flat(k3),
            "controller": {"kl": distances, "beta": betas},
            "pairs": {
                "better": better.tolist(),
                "worse": worse.tolist(),
                "reference_better": reference_better.tolist(),
                "reference_worse": reference_worse.tolist(),
                "dpo": dpo(0.1).tolist(),
                "spin": dpo(5.0).tolist(),
            },
            "dense_log_probs": dense.tolist(),
            "sum_log_probs": (new * mask).sum(-1).tolist(),
        },
        indent=1,
    )
)
assert abs(masked_mean(advantages, mask).item()) < 1e-5
