"""Hidden features emerge without labels: the whole story in plain torch and `hltm`, from top to bottom.

A network sees pairs of views of the leaves of a tree, and learns only to tell which two belong together.
It is given no latent variable. We compare its units with every latent, before and after training.
"""

import torch
from torch import nn

import hltm

# 1. A tree of depth 4: 16 leaves that a network sees, and 15 latents that it never sees. A child has
#    the state of its parent, or the opposite one, with probability 0.9: their correlation is ±0.8.
tree = hltm.symmetric_binary(depth=4, polarity=0.8, seed=0)

# 2. Two views of each row: one root, and everything below it drawn twice. The root alone is common.
STEPS, BATCH, TEMPERATURE, RATE = 400, 128, 0.2, 1.0
rows = tree.sample(STEPS * BATCH, seed=1)
first, second = (view.leaves.float() for view in tree.views(rows, hltm.keep_root()))

# 3. A small ReLU network.
torch.manual_seed(0)
hidden = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24))
network = nn.Sequential(hidden, nn.ReLU(), nn.Linear(24, 16))


# 4. How well units follow a latent: the largest absolute correlation with any unit of the hidden layer.
test = tree.sample(8_192, seed=2)
latents = test.states[:, tree.latents].float()  # (B, 15), the root first


def alignment(states):
    with torch.no_grad():
        units = hidden(test.leaves.float())
    together = torch.cat([units, states], dim=1).T
    return torch.corrcoef(together)[: units.shape[1], units.shape[1] :].abs().amax(0)  # (15,)


untrained = alignment(latents)

# 5. InfoNCE: each view attracts its partner, and repels the partners of all other rows of the batch.
weights = list(network.parameters())
for a, b in zip(first.split(BATCH), second.split(BATCH), strict=True):
    a, b = (nn.functional.normalize(network(view), dim=1) for view in (a, b))
    loss = nn.functional.cross_entropy(a @ b.T / TEMPERATURE, torch.arange(BATCH))
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= RATE * gradient

# 6. The same units afterwards, beside the null, what units score on the latents of other rows, and the
#    ceiling, which no function of all leaves exceeds.
trained = alignment(latents)
null = torch.stack([alignment(latents.roll(lag, 0)) for lag in range(1, 20)]).amax(0)  # 95% point
ceiling = tree.ceiling(tree.latents, leaves="all").value
print("level  untrained  trained  null  ceiling")
for level in range(1, tree.topology.depth + 1):
    at = tree.level(level)
    row = [float(scores[at].mean()) for scores in (untrained, trained, null, ceiling)]
    print("{:5}  {:9.2f}  {:7.2f}  {:4.2f}  {:7.2f}".format(level, *row))
