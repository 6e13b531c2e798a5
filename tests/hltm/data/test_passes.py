"""Every pass over a data set is an epoch of its own, whatever reads it: loops as trainers write them."""

import copy
import os
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    random_split,
)

import hltm
from hltm.data.passes import HOMES, PID, PassCounter, check_loaders

TREE = hltm.symmetric_binary(depth=6, polarity=0.9, seed=0)
AUGMENT = hltm.resample_leaves(0.5)
ROWS = 100
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on few cores
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def fixed(**changes):
    changes = {"augment": AUGMENT, "samples": ROWS, "seed": 1} | changes
    return hltm.ViewDataset(TREE, **changes)


@cache
def views_of(epoch):
    return TREE.views(TREE.sample(ROWS, seed=1), AUGMENT, first_view=2 * epoch + 1)


def epoch_of(batch):
    """The only epoch whose views a batch has."""
    found = [
        e
        for e in range(10)
        if all(
            v.equal(w.leaves[batch.places]) for v, w in zip(batch.views, views_of(e), strict=True)
        )
    ]
    assert len(found) == 1, found
    return found[0]


def epochs(loader, steps=None):
    """The epochs of the batches of one pass, each once."""
    return sorted({epoch_of(batch) for batch in islice(loader, steps)})


class Wrapped(Dataset):
    """Another library's data set around ours, which reads item by item."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]


class Iterated(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(40))


def by_batches(data):
    sampler = BatchSampler(RandomSampler(data), 25, drop_last=False)
    return DataLoader(data, sampler=sampler, batch_size=None)


LOADERS = {
    "in order": lambda data: DataLoader(data, batch_size=25),
    "shuffled": lambda data: DataLoader(data, batch_size=30, shuffle=True, drop_last=True),
    "small batches": lambda data: DataLoader(data, batch_size=8, shuffle=True),
    "with repeated rows": lambda data: DataLoader(
        data, batch_size=40, sampler=RandomSampler(data, replacement=True, num_samples=300)
    ),
    "batches of a sampler": by_batches,
    "twice the same rows": lambda data: DataLoader(ConcatDataset([data, data]), batch_size=64),
    "wrapped": lambda data: DataLoader(Wrapped(data), batch_size=25),
    "iterated": lambda data: DataLoader(Iterated(data), batch_size=20),
    "own collation": lambda data: DataLoader(
        data, batch_size=25, collate_fn=lambda items: torch.utils.data.default_collate(list(items))
    ),
}


@pytest.mark.parametrize("name", few(LOADERS, 4))
def test_each_pass_of_a_loader_is_an_epoch(name):
    data = fixed()
    loader = LOADERS[name](data)
    assert [epochs(loader) for _ in range(3)] == [[0], [1], [2]]
    assert epochs(LOADERS[name](data)) == [3]  # a new loader goes on
    assert epochs(loader, steps=1) == [4]  # a pass that is left counts
    iter(loader)  # one that is not read does not
    assert epochs(loader) == [5]
    data.set_epoch(3)
    assert [epochs(loader), epochs(loader)] == [[3], [3]]
    data.set_epoch(None)
    assert epochs(loader) == [4]


def test_subsets_are_counted_together_and_do_not_disturb_a_pass():
    data = fixed()
    train, valid = (DataLoader(part, batch_size=12) for part in random_split(data, [75, 25]))
    assert epochs(valid, steps=2) == [0]  # the check before training
    seen = []
    for batch in train:
        seen.append(epoch_of(batch))
        if len(seen) == 3:
            assert epochs(valid) == [2]
    assert set(seen) == {1}
    assert epochs(train) == [3]


def test_loaders_whose_passes_cannot_be_counted_are_reported(monkeypatch):
    check, before = check_loaders.__wrapped__, torch.get_rng_state()
    check()
    assert torch.get_rng_state().equal(before)
    monkeypatch.setattr("hltm.data.passes.fetch", torch)  # as if the fetchers were elsewhere
    with pytest.warns(UserWarning, match="cannot be counted, .* call set_epoch before each pass"):
        check()


def test_direct_reads_show_the_present_epoch_and_count_nothing():
    data = fixed()
    for _ in range(2):
        assert epoch_of(data[:]) == epoch_of(data.batch(np.arange(50))) == data.epoch == 0
    loader = DataLoader(data, batch_size=25)
    assert data[7] == data[7]
    assert epochs(loader) == [0]
    for batch in loader:
        assert epoch_of(batch) == epoch_of(data[:50]) == data.epoch == 1
    assert epoch_of(data[:]) == 1
    data.set_epoch(6)
    assert epoch_of(data[[5, 99, 7]]) == data.epoch == 6


def test_loops_over_places_are_warned_of_views_that_repeat():
    data = fixed()
    for _ in range(2):
        items = [data[i] for i in range(ROWS)]
        assert data[:] == torch.utils.data.default_collate(items)
    with pytest.warns(UserWarning, match="201 rows were read by their places.*call set_epoch"):
        data[0]
    assert [data[i].places for i in range(ROWS)] == list(range(ROWS))  # once is enough
    quiet = fixed()
    quiet.set_epoch(0)
    fresh = fixed(augment=None, views=1)
    for each in (quiet, fresh):
        for i in range(3 * ROWS):
            each[i % ROWS]
    data = fixed()
    for _ in range(3):
        epochs(DataLoader(data, batch_size=50))
        [data[low : low + 25] for low in (0, 25, 50, 75)]


class Threaded(Wrapped):
    """Reads its items in threads, as data sets of slow files do."""

    def __getitems__(self, places):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.data.__getitem__, places))


def test_threads_of_a_worker_read_in_the_epoch_of_its_pass():
    data = Threaded(fixed(samples=20))
    loader = DataLoader(data, batch_size=10, num_workers=2, multiprocessing_context="fork")
    assert [epochs(loader) for _ in range(2)] == [[0], [1]]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_data_sets_keep_no_file_open():
    before = len(os.listdir("/proc/self/fd"))
    kept = [fixed() for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before, kept


def test_a_loop_over_the_items_is_a_pass():
    data = fixed(samples=70)
    for epoch in range(3):
        items = list(data)
        assert [item.places for item in items] == list(range(70))
        assert epoch_of(torch.utils.data.default_collate(items)) == epoch
    assert epochs(DataLoader(data, batch_size=70)) == [3]


def test_ranks_that_shuffle_come_to_the_same_epoch():
    """Each rank reads other rows in each pass, so rows that it has not read do not tell the pass."""
    for rank in range(4):
        data = fixed()
        sampler = DistributedSampler(data, num_replicas=4, rank=rank, shuffle=True)
        loader = DataLoader(data, batch_size=2, sampler=sampler)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            assert epochs(loader) == [epoch]


def test_a_resumed_run_goes_on_with_new_views():
    data = fixed()
    assert data.state_dict() == {"epoch": 0}
    loader = DataLoader(data, batch_size=25)
    epochs(loader), epochs(loader, steps=2)
    state = data.state_dict()
    assert state == {"epoch": 2}
    again = fixed()
    again.set_epoch(9)
    again.load_state_dict(state)
    assert epochs(DataLoader(again, batch_size=30, shuffle=True)) == [2] == epochs(loader)
    data.set_epoch(5)
    assert data.state_dict() == {"epoch": 6}
    data.load_state_dict({"epoch": 1})
    assert epochs(loader) == [1]


@pytest.mark.parametrize("workers", few([2, 0]))
@pytest.mark.parametrize("taken", few([2, 4, 0, 1, 3], 2))
@pytest.mark.filterwarnings("ignore")
def test_a_stateful_loader_resumes_in_one_epoch(workers, taken):
    """The states of its workers differ where some have not read, but no pass mixes two epochs."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    context = "fork" if workers else None

    def make():
        options = {"num_workers": workers, "multiprocessing_context": context}
        return stateful(fixed(), 25, **options)

    loader = make()
    assert [epochs(loader), epochs(loader)] == [[0], [1]]
    assert len(list(islice(loader, taken))) == taken
    other = make()
    other.load_state_dict(loader.state_dict())
    following = 2 + (taken > 0)
    found = [epochs(other), epochs(other), epochs(other)]
    if taken % 4:  # the rest of the pass is read with views that are new
        assert found == [[following], [following + 1], [following + 2]]
    else:
        assert found[-1] == [found[-2][0] + 1]
        assert found[-2][0] >= following


def test_copies_count_for_themselves():
    data = fixed()
    loader = DataLoader(data, batch_size=25)
    epochs(loader)
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert epochs(DataLoader(other, batch_size=25)) == [1]
        other.set_epoch(7)
    assert epochs(loader) == [1]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["all", "some", "pin", "unpin", "load", "read"]), max_size=10))
def test_any_sequence_of_loops_and_settings(actions):
    data, loader, next_epoch, pinned = fixed(), None, 0, None
    loader = DataLoader(data, batch_size=25, shuffle=True)
    for i, action in enumerate(actions):
        if action in ("all", "some"):
            found = epochs(loader, None if action == "all" else 1)
            assert found == [next_epoch if pinned is None else pinned]
            next_epoch += pinned is None
        elif action == "pin":
            pinned = i
            next_epoch = pinned + 1
            data.set_epoch(pinned)
        elif action == "unpin":
            pinned = None
            data.set_epoch(None)
        elif action == "load":
            pinned, next_epoch = None, i
            data.load_state_dict({"epoch": i})
        else:
            assert epoch_of(data[:20]) == max(next_epoch - 1, 0)
        assert data.state_dict()["epoch"] == next_epoch


class Processes:
    """Workers of several loaders in one process: what identifies a process is set by hand."""

    def __init__(self, patch):
        self.patch, self.counters = patch, {}
        self.first = PassCounter()

    def begin(self, home, group, worker, **options):
        """A worker, or the home itself where the group is 0, begins a pass."""
        key = (home, group, worker)
        if key not in self.counters:
            self.counters[key] = PassCounter()
            self.counters[key]._table = self.first._table
            self.counters[key]._creator = self.first._creator
        self.patch.setattr("hltm.data.passes._home_pid", lambda: home)
        self.patch.setattr("hltm.data.passes._group", lambda: (group, worker))
        return self.counters[key].begin(**options)


@settings(max_examples=40)
@given(st.data())
def test_workers_of_one_loader_begin_the_same_pass(data):
    """In any order, when not all of them read in each pass, when another loader begins between them."""
    with pytest.MonkeyPatch.context() as patch:
        processes, count, started = Processes(patch), 0, 10
        lasting = {}
        for _ in range(data.draw(st.integers(1, 8), label="passes")):
            home_reads = data.draw(st.booleans(), label="no workers")
            if home_reads:
                assert processes.begin(1, 0, 0) == (count, 0)
                count += 1
                continue
            persistent = data.draw(st.sampled_from([None, "a", "b"]), label="persistent")
            group = lasting.get(persistent, started)
            if persistent is not None:
                lasting[persistent] = group
            started += 4
            workers = data.draw(st.permutations(range(4)), label="order")
            late = data.draw(st.booleans(), label="another in between")
            for i, worker in enumerate(workers):
                assert processes.begin(1, group, worker) == (count, worker)
                if late and i == 0:
                    assert processes.begin(1, 0, 0) == (count + 1, 0)
            count += 1 + late


def test_a_worker_that_reads_ahead_does_not_hide_a_later_pass():
    passes = PassCounter()
    passes.has_read(1, 9)
    passes.has_read(0, 12)
    assert passes.position == (1, 9)


def test_homes_count_for_themselves(monkeypatch):
    processes = Processes(monkeypatch)
    for home in (3, 4, 3 + HOMES):
        assert [processes.begin(home, 0, 0)[0] for _ in range(3)] == [0, 1, 2]
    assert processes.begin(4, 9, 0) == (3, 0)
    assert processes.begin(3, 9, 1) == (3, 1)  # the same number of another home's workers
    for home in range(100, 100 + 2 * HOMES):  # more processes than the table has rows
        assert processes.begin(home, 0, 0)[0] == 0
    assert len(set(processes.first._table[:, PID].tolist())) == HOMES


def test_processes_that_are_started_later_go_on_from_the_one_that_made_the_data_set(monkeypatch):
    processes = Processes(monkeypatch)
    home = processes.first._creator
    assert [processes.begin(home, 5, worker)[0] for worker in (0, 1)] == [0, 0]
    for rank in (home + 1, home + 2):
        # its loader has the number that one of its creator had
        assert [processes.begin(rank, 5, worker)[0] for worker in (1, 0)] == [1, 1]


@pytest.mark.parametrize("shuffle", few([True, False]))
def test_forked_workers_begin_an_epoch_together(shuffle):
    data, options = fixed(), {"num_workers": 2, "multiprocessing_context": "fork"}
    once = DataLoader(data, batch_size=40, shuffle=shuffle, **options)
    lasting = DataLoader(data, batch_size=40, shuffle=shuffle, persistent_workers=True, **options)
    assert [epochs(once), epochs(lasting), epochs(lasting)] == [[0], [1], [2]]
    assert epochs(lasting, steps=1) == [3]
    assert epochs(lasting) == [4]
    torch.manual_seed(0)
    assert epochs(once, steps=1) == [5]
    torch.manual_seed(0)  # the seeds of workers do not matter
    assert epochs(once) == [6]
    data.set_epoch(2)
    assert [epochs(lasting), epochs(once)] == [[2], [2]]
    data.set_epoch(None)
    assert epochs(lasting) == [3]
    data.load_state_dict({"epoch": 1})
    assert epochs(lasting) == [1]
    assert epochs(DataLoader(data, batch_size=40)) == [2]
    assert data.epoch == 2
    assert epochs(lasting) == [3]


@pytest.mark.slow
def test_spawned_workers_begin_an_epoch_together():
    """They get the shared memory by name, and know nothing else of the process that starts them."""
    data, options = fixed(), {"num_workers": 2, "multiprocessing_context": "spawn"}
    lasting = DataLoader(data, batch_size=25, shuffle=True, persistent_workers=True, **options)
    assert [epochs(lasting), epochs(lasting, steps=1), epochs(lasting)] == [[0], [1], [2]]
    data.set_epoch(5)
    assert epochs(lasting) == [5]
    data.set_epoch(None)
    assert epochs(DataLoader(data, batch_size=25, **options)) == [6]
    assert [epochs(lasting), epochs(DataLoader(data, batch_size=25))] == [[7], [8]]


def read_as_rank(rank, port, data, stream, queue):
    """What a rank reads: the epochs of three passes with and without workers, and its rows of a stream."""
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    early = firsts_of(stream)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    sampler = DistributedSampler(data, shuffle=True)
    found = []
    for epoch, workers in enumerate((0, 2, 0)):
        sampler.set_epoch(epoch)
        context = "fork" if workers else None
        loader = DataLoader(
            data,
            batch_size=4,
            sampler=sampler,
            num_workers=workers,
            multiprocessing_context=context,
        )
        found.append(epochs(loader))
        torch.distributed.barrier()
    spawned = DataLoader(stream, None, num_workers=1, multiprocessing_context="spawn")
    queue.put((rank, found, early, firsts_of(stream), firsts_of(spawned), len(spawned)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def firsts_of(stream):
    return [int(batch.places[0]) for batch in stream]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ranks_of_a_process_group_read_the_same_epochs_and_other_rows():
    """The data sets are made before the ranks are started, so the ranks share their memory."""
    context = torch.multiprocessing.get_context("spawn")
    queue, port = context.Queue(), _free_port()
    stream = hltm.ViewStream(TREE, None, batch=4, samples=35, seed=1)
    torch.multiprocessing.spawn(read_as_rank, (port, fixed(), stream, queue), nprocs=2)
    for rank, found, early, *late, steps in sorted(queue.get() for _ in range(2)):
        assert found == [[0], [1], [2]]
        assert early == list(range(0, 35, 4))  # there was no process group yet
        assert late == [list(range(4 * rank, 32, 8))] * 2
        assert steps == 4


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.filterwarnings("ignore")
def test_lightning_sees_new_views_in_each_epoch(tmp_path):
    lightning = pytest.importorskip("lightning")
    seen = {"train": [], "valid": []}

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 2)

        def loss(self, batch, part):
            seen[part].append(epoch_of(batch))
            return self.layer(batch.views[0].float()).square().mean()

        def training_step(self, batch):
            return self.loss(batch, "train")

        def validation_step(self, batch):
            self.loss(batch, "valid")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    data = fixed()
    train, valid = random_split(data, [75, 25])
    trainer = lightning.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        num_sanity_val_steps=1,
    )  # fmt: skip
    loaders = DataLoader(train, batch_size=25, shuffle=True), DataLoader(valid, batch_size=10)
    trainer.fit(Model(), *loaders)
    assert seen["train"] == [1, 1, 1, 3, 3, 3, 5, 5, 5]
    assert seen["valid"] == [0, 2, 2, 2, 4, 4, 4, 6, 6, 6]
