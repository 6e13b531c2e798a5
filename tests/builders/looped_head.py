"""A head of one member, one layer and one row at a time; its running moments; and rows of length 1."""

import torch

# (weight of a layer, or the running mean of the inputs, the norm, the rows before it), per plain head called
SEEN = []


def looped_head(head, parameters, rows):
    """(N, U) -> (N, U_out); with BatchNorm the N rows are the batch."""
    for layer, _ in enumerate(head.widths):
        weight, bias = parameters[f"{layer}.weight"][0], parameters.get(f"{layer}.bias")
        rows = torch.stack([weight @ row + (0 if bias is None else bias[0]) for row in rows])
        last = layer == len(head.widths) - 1
        norm = head.last_norm if last else head.norm
        SEEN.append((parameters[f"{layer}.weight"], norm, rows.detach()))
        if norm is not None:  # all of BatchNorm, without gain and shift
            mean = sum(rows) / len(rows)
            variance = sum((row - mean) ** 2 for row in rows) / len(rows)
            rows = torch.stack([(row - mean) / (variance + norm.epsilon).sqrt() for row in rows])
        if not last:
            rows = torch.where(rows > 0, rows, torch.zeros_like(rows))
    return rows


def updated_moments(state):
    """The running moments of a state after an update, from the batches that plain heads had in it."""
    found = {}
    for name in state:
        if not name.endswith(".batches"):
            continue
        layer = name.removesuffix(".batches")
        of_layer = state.get(f"{layer}.weight", state.get(f"{layer}.mean"))
        calls = []
        for weight, norm, rows in SEEN:
            fresh = all(not rows.equal(others) for _, others in calls)
            if weight is of_layer and fresh:
                calls.append((norm, rows))
        count = int(state[name]) + 1
        step = max(calls[0][0].momentum, 1 / count)
        found[name] = torch.tensor(count)
        for kind, of_rows in (("mean", torch.Tensor.mean), ("variance", torch.Tensor.var)):
            if f"{layer}.{kind}" in state:
                new = sum(of_rows(rows, 0) for _, rows in calls) / len(calls)
                old = state[f"{layer}.{kind}"]
                found[f"{layer}.{kind}"] = (1 - step) * old + step * new[:, None]
    return found


def of_length_1(rows):
    return torch.stack([row / (row * row).sum().sqrt() for row in rows])


def strip_prefix(state, prefix):
    """The tensors of a state whose names begin with `prefix.`, by the rest of their names."""
    start = prefix + "."
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}
