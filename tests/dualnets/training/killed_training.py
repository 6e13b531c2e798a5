"""A training that is killed again and again; run as a script by test_checkpoint.py.

    python killed_training.py FOLDER RESULT

For every line on standard input it forks a process that trains with checkpoints in FOLDER, prints the id
of that process, waits for it, and prints its exit status. A training that ends by itself writes RESULT.
"""

import os
import sys
import time

import torch

import dualnets
import hltm
from dualnets.training import checkpoint

STEPS, EVERY, SNAPSHOTS = 48, 3, (0, 10, 48)


def train(folder=None, keep=2):
    """All snapshots, as one dict of tensors."""
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1)
    found = {}
    for snapshot in dualnets.trajectory(
        network,
        dualnets.VICReg(),
        trees,
        augment=hltm.resample_leaves(0.3),
        steps=STEPS,
        batch=8,
        samples=40,
        seed=5,
        snapshots=SNAPSHOTS,
        members_at_once=2,
        optimizer=dualnets.AdamW(0.01, schedule=dualnets.Schedule("cosine", warm_up=4)),
        checkpoints=None if folder is None else dualnets.Checkpoints(folder, EVERY, keep),
    ):
        for name, parameter in snapshot.network.named_parameters():
            found[f"{snapshot.step}.{name}"] = parameter.detach()
        found[f"{snapshot.step}.losses"] = snapshot.losses
    return found


def slowly(write):
    """The same writing, so slow that a kill often falls into it."""

    def wrapped(path, content):
        time.sleep(2e-3)
        write(path, content)
        time.sleep(1e-3)

    return wrapped


def main(folder, result):
    from safetensors.torch import save_file

    checkpoint.write_json = slowly(checkpoint.write_json)
    train()  # compiled and imported before anything is forked
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                save_file(train(folder), result)
                status = 0
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
