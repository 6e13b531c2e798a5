"""One member of a transformer over leaves: one sample, one position and one head at a time."""

import torch


def normalized(row):
    mean = sum(row) / len(row)
    return (row - mean) / (sum((u - mean) ** 2 for u in row) / len(row) + 1e-5).sqrt()


class PlainTransformer:
    """(N, X) leaves -> (N, U), the mean of `positions`; parameters as the network names them."""

    def __init__(self, parameters, states, causal, heads):
        self.parameters = dict(parameters)
        self.states, self.causal, self.heads = states, causal, heads

    def with_parameters(self, parameters):
        return PlainTransformer(parameters, self.states, self.causal, self.heads)

    def __call__(self, leaves):
        return torch.stack([torch.stack(row).mean(0) for row in self.positions(leaves)])

    def positions(self, leaves, activations=False):
        """For every sample a list of the vectors at its positions; or of those behind the last block."""
        return [self._sample(row.tolist(), activations) for row in leaves]

    def _norm(self, name, row):
        return self.parameters[f"{name}.gain"] * normalized(row)

    def _sample(self, leaves, activations):
        own = self.parameters
        tokens = [int(k) if 0 <= k < self.states else self.states for k in leaves]
        if self.causal:
            tokens = [self.states + 1, *tokens[:-1]]
        hidden = [own["tokens"][k] + own["places"][x] for x, k in enumerate(tokens)]
        layer = 0
        while f"blocks.{layer}.read" in own:
            name = f"blocks.{layer}"
            read = [own[f"{name}.read"] @ self._norm(f"{name}.before_attention", h) for h in hidden]
            hidden = [
                h + own[f"{name}.write"] @ self._attended(read, x) for x, h in enumerate(hidden)
            ]
            inner = [own[f"{name}.up"] @ self._norm(f"{name}.before_mlp", h) for h in hidden]
            hidden = [
                h + own[f"{name}.down"] @ torch.where(u > 0, u, torch.zeros_like(u))
                for h, u in zip(hidden, inner, strict=True)
            ]
            layer += 1
        return hidden if activations else [self._norm("norm", h) for h in hidden]

    def _attended(self, read, x):
        units = len(read[0]) // 3
        wide = units // self.heads
        found = []
        for head in range(self.heads):
            q, k, v = (
                slice(n * units + head * wide, n * units + (head + 1) * wide) for n in range(3)
            )
            seen = read[: x + 1] if self.causal else read
            scores = torch.stack([read[x][q] @ other[k] / wide**0.5 for other in seen])
            weights = torch.exp(scores) / torch.exp(scores).sum()
            found.append(sum(w * other[v] for w, other in zip(weights, seen, strict=True)))
        return torch.cat(found)
