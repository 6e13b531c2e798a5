"""A head of one member, one layer and one row at a time; and directions of rows."""

import torch


def looped_head(head, parameters, rows):
    """(N, U) -> (N, U_out); with BatchNorm the N rows are the batch."""
    for layer, _ in enumerate(head.widths):
        weight, bias = parameters[f"{layer}.weight"][0], parameters.get(f"{layer}.bias")
        rows = torch.stack([weight @ row + (0 if bias is None else bias[0]) for row in rows])
        last = layer == len(head.widths) - 1
        norm = head.last_norm if last else head.norm
        if norm is not None:  # all of BatchNorm, without gain and shift
            mean = sum(rows) / len(rows)
            variance = sum((row - mean) ** 2 for row in rows) / len(rows)
            rows = torch.stack([(row - mean) / (variance + norm.epsilon).sqrt() for row in rows])
        if not last:
            rows = torch.where(rows > 0, rows, torch.zeros_like(rows))
    return rows


def of_length_1(rows):
    return torch.stack([row / (row * row).sum().sqrt() for row in rows])


def under(state, prefix):
    """What lies under `prefix.` in a state."""
    start = prefix + "."
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}
