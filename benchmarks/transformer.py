"""How fast an ensemble of transformers trains, beside torch modules in a loop and under `torch.func.vmap`.

    python benchmarks/transformer.py                     # S = 1, 8, 32 on one thread
    python benchmarks/transformer.py --threads 2 --batch 4
    python benchmarks/transformer.py --device cuda       # on a GPU
    python benchmarks/transformer.py --cpu-time          # of the process, on a machine that others use too
    python benchmarks/transformer.py --profile           # where the time of S = 32 goes

Cross-entropy of masked leaves, AdamW; contenders take turns in one run, rates are medians, and ratios are
medians of each round's ratio. Before the clock starts, three steps of all are compared in double precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import dualnets
import hltm
from dualnets.networks.sequence_network import SequenceNetwork
from dualnets.optim.compiled import CompiledUpdate, is_compiled

DEPTH, WIDTH, LAYERS, HEADS, STATES = 5, 64, 4, 4, 2  # 32 leaves
MASKED, RATE = 0.3, 1e-3
CLOCK = time.perf_counter
Batch = tuple[Tensor, Tensor]  # leaves of a view and of the sample, (S, B, X)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.write = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        samples, places, _ = hidden.shape
        split = self.read(hidden).view(samples, places, 3, HEADS, WIDTH // HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.write(found.transpose(1, 2).reshape(samples, places, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.attention = Attention()
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            nn.ReLU(),
            nn.Linear(4 * WIDTH, WIDTH, bias=False),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norms[0](hidden))
        return hidden + self.mlp(self.norms[1](hidden))


class Model(nn.Module):
    """One member with its readout, as one would write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(STATES + 1, WIDTH)
        self.places = nn.Parameter(torch.zeros(2**DEPTH, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, STATES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places)))


def loss_of(logits: Tensor, leaves: Tensor, view: Tensor) -> Tensor:
    """Mean cross-entropy of the leaves that the view misses; one member."""
    each = nn.functional.cross_entropy(logits.flatten(0, 1), leaves.flatten(), reduction="none")
    missing = (view == STATES).flatten()
    return (each * missing).sum() / missing.sum()


class Task:
    """The networks of which all contenders train copies."""

    def __init__(self, members: int, dtype: torch.dtype, device: str) -> None:
        self.members, self.dtype, self.device = members, dtype, device
        self.tree = hltm.symmetric_binary(depth=DEPTH, seed=0)
        self.network = dualnets.transformer(
            self.tree, width=WIDTH, layers=LAYERS, heads=HEADS, members=members, seed=1, dtype=dtype,
            device=device,
        )  # fmt: skip
        drawn = torch.randn(members, STATES, WIDTH, generator=torch.Generator().manual_seed(0))
        self.head = (drawn * WIDTH**-0.5).to(device, dtype)

    def batches(self, samples: int, steps: int) -> list[Batch]:
        """Views with token K for missing leaves, and the samples."""
        generator = torch.Generator().manual_seed(2)
        found = []
        for step in range(steps):
            count = self.members * samples
            drawn = self.tree.sample(count, seed=3, start=step * count).leaves.long()
            missing = torch.rand(drawn.shape, generator=generator) < MASKED
            pair = (drawn.masked_fill(missing, STATES), drawn)
            view, leaves = (own.view(self.members, samples, -1).to(self.device) for own in pair)
            found.append((view, leaves))
        return found

    def models(self) -> list[Model]:
        """The members as modules."""
        found = []
        for s in range(self.members):
            model = Model().to(self.device, self.dtype)
            with torch.no_grad():
                for own, theirs in zip(model.parameters(), self.given(model), strict=True):
                    own.copy_(theirs[s])
            found.append(model)
        return found

    def given(self, model: Model) -> list[Tensor]:
        """The stacked parameters in the order of `model.parameters()`."""
        return in_order(model, self.network, self.head)


def in_order(model: Model, network: SequenceNetwork, head: Tensor) -> list[Tensor]:
    places = network.places
    assert places is not None
    found = {"tokens.weight": network.tokens, "places": places, "head.weight": head}
    scales = {"norm": network.norm}
    for layer, block in enumerate(network.blocks):
        at = f"blocks.{layer}."
        scales |= {f"{at}norms.0": block.before_attention, f"{at}norms.1": block.before_mlp}
        found |= {
            f"{at}attention.read.weight": block.read,
            f"{at}attention.write.weight": block.write,
        }
        found |= {f"{at}mlp.0.weight": block.up, f"{at}mlp.2.weight": block.down}
    for name, scale in scales.items():
        found[f"{name}.weight"] = scale.gain
    return [found[name].detach() for name, _ in model.named_parameters()]


class Ours:
    """`dualnets.transformer` and the package's AdamW, compiled on the CPU."""

    def __init__(self, task: Task) -> None:
        self.network, self.head = task.network, task.head.clone().requires_grad_()
        self.trained = {**dict(self.network.named_parameters()), "head": self.head}
        self.optimizer = dualnets.AdamW(RATE, weight_decay=0.0)
        self.memory = self.optimizer.init(self.trained)
        self.frozen_at = torch.full((task.members,), -1, device=task.device)
        self.update = None
        if is_compiled(self.optimizer, self.trained, self.memory):
            self.update = CompiledUpdate(self.optimizer, self.trained, self.memory, {})
        self.step = 0

    def __call__(self, batch: Batch) -> Tensor:
        view, leaves = batch
        hidden = self.network.positions(view).flatten(1, 2)
        logits = hidden @ self.head.mT  # (S, B * X, K)
        missing = (view == STATES).flatten(1)
        chosen = logits.log_softmax(-1).gather(-1, leaves.flatten(1)[..., None])[..., 0]
        losses = -(chosen * missing).sum(1) / missing.sum(1)
        gradients = torch.autograd.grad(losses.sum(), [*self.trained.values()])
        losses = losses.detach()
        with torch.no_grad():
            if self.update is not None:
                self.update(gradients, losses, self.frozen_at, self.step, 1000, [])
            else:
                named = dict(zip(self.trained, gradients, strict=True))
                self.optimizer.update(
                    self.trained, named, self.memory, self.frozen_at < 0, self.step
                )
        self.step += 1
        return losses

    def parameters(self) -> list[Tensor]:
        return in_order(Model(), self.network, self.head)


class Loop:
    """Modules one after the other, each with an optimiser of its own."""

    def __init__(self, task: Task, fused: bool = False) -> None:
        self.models = task.models()
        self.optimizers = [
            torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0, fused=fused or None)
            for model in self.models
        ]

    def __call__(self, batch: Batch) -> Tensor:
        found = []
        for model, optimizer, view, leaves in zip(
            self.models, self.optimizers, *batch, strict=True
        ):
            optimizer.zero_grad()
            loss = loss_of(model(view), leaves, view)
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    def parameters(self) -> list[Tensor]:
        each = zip(*(model.parameters() for model in self.models), strict=True)
        return [torch.stack(own).detach() for own in each]


class FusedLoop(Loop):
    """The loop with `fused=True`, torch's fastest AdamW."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, fused=True)


class Vmap:
    """`torch.func.functional_call` of stacked parameters under vmap, one optimiser for all."""

    def __init__(self, task: Task) -> None:
        models = task.models()
        self.own, _ = stack_module_state(models)
        base = models[0]

        def loss(own: dict[str, Tensor], view: Tensor, leaves: Tensor) -> Tensor:
            return loss_of(functional_call(base, own, (view,)), leaves, view)

        self.gradients = vmap(grad_and_value(loss))
        self.optimizer = torch.optim.AdamW(self.own.values(), RATE, weight_decay=0.0, fused=True)

    def __call__(self, batch: Batch) -> Tensor:
        view, leaves = batch
        own = {name: tensor.detach() for name, tensor in self.own.items()}
        gradients, losses = self.gradients(own, view, leaves)
        for name, tensor in self.own.items():
            tensor.grad = gradients[name]
        self.optimizer.step()
        return losses

    def parameters(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self.own.values()]


CONTENDERS: dict[str, Callable[[Task], Ours | Loop | Vmap]] = {
    "hltm": Ours, "loop": Loop, "loop, fused AdamW": FusedLoop, "vmap": Vmap,
}  # fmt: skip


def disagreement(device: str = "cpu", samples: int = 8) -> float:
    """The largest difference of losses and parameters of three members after three steps, float64."""
    found = []
    for make in CONTENDERS.values():
        task = Task(3, torch.float64, device)
        trainer = make(task)
        losses = [trainer(batch) for batch in task.batches(samples, 3)]
        found.append([*losses, *trainer.parameters()])
    first, *others = found
    return max(
        float((own - its).abs().max())
        for other in others
        for own, its in zip(first, other, strict=True)
    )


def seconds_of(work: Callable[[], object], device: str) -> float:
    began = CLOCK()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return CLOCK() - began


def operations(samples: int) -> float:
    """Floating-point operations of the products of one member's step: forward and twice as many backward."""
    tokens = samples * 2**DEPTH
    block = 2 * tokens * WIDTH * (12 * WIDTH + 2 * 2**DEPTH)
    return 3 * (LAYERS * block + 2 * tokens * WIDTH * STATES)


def product_rate(device: str, members: int, rows: int, inner: int, columns: int) -> float:
    """The best rate of a batch of products `(rows, inner) @ (inner, columns)`, operations a second."""
    a = torch.randn(members, rows, inner, device=device)
    b = torch.randn(members, inner, columns, device=device)
    best = min(seconds_of(lambda: torch.bmm(a, b), device) for _ in range(7))
    return 2 * members * rows * inner * columns / best


def rates(
    members: int, samples: int, device: str, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Member-steps per second of each contender in each round."""
    trainers, task = {}, Task(members, torch.float32, device)
    batches = task.batches(samples, 4)
    for name, make in CONTENDERS.items():
        trainers[name] = make(Task(members, torch.float32, device))
        seconds_of(lambda n=name: [trainers[n](batch) for batch in batches[:2]], device)
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            once = seconds_of(lambda t=trainer: t(batches[0]), device)
            steps = max(1, round(seconds / once))
            spent = seconds_of(
                lambda t=trainer, n=steps: [t(batches[i % 4]) for i in range(n)], device
            )
            found[name].append(members * steps / spent)
    return found


def profile(members: int, samples: int, device: str) -> None:
    """Print where the time of our step and of the loop's goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    for name in ("hltm", "loop"):
        task = Task(members, torch.float32, device)
        trainer, batches = CONTENDERS[name](task), task.batches(samples, 2)
        trainer(batches[0])
        with profiled(activities=kinds) as found:
            trainer(batches[1])
        key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        print(name, found.key_averages().table(sort_by=key, row_limit=16, max_name_column_width=48))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--batch", type=int, default=32, help="samples per member and step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a contender in a round")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args(arguments)
    if given.cpu_time:
        global CLOCK
        CLOCK = time.process_time
    torch.set_num_threads(given.threads)
    if given.profile:
        profile(given.members[-1], given.batch, given.device)
        return
    print(f"largest difference after three steps: {disagreement(given.device):.1e}")
    large = product_rate(given.device, 1, 2048, 2048, 2048)
    print(
        f"{given.threads} thread(s), batch {given.batch}; a large product: {large / 1e9:.0f} GFLOP/s"
    )
    limit = large / operations(given.batch)
    print(
        f"a step has {operations(given.batch) / 1e9:.3f} GFLOP of products: at most {limit:.0f}/s\n"
    )
    names = list(CONTENDERS)
    print(
        "| S | "
        + " | ".join(names)
        + " | hltm / "
        + " | hltm / ".join(names[1:])
        + " | of the product |"
    )
    print("|" + "---|" * (2 * len(names) + 1))
    for members in given.members:
        found = rates(members, given.batch, given.device, given.rounds, given.seconds)
        medians = [f"{statistics.median(own):.1f}" for own in found.values()]
        ratios = [
            statistics.median(a / b for a, b in zip(found["hltm"], found[name], strict=True))
            for name in names[1:]
        ]
        share = statistics.median(found["hltm"]) / limit
        cells = [str(members), *medians, *(f"{ratio:.2f}" for ratio in ratios), f"{share:.0%}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
