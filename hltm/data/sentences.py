"""A torch data set of the strings of a context-free grammar, labelled with their constituents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hltm._integers import as_integer
from hltm._paths import local_path
from hltm.data.batch_items import BatchItems, item_of
from hltm.data.dataset import Places, find_places
from hltm.data.export.files import replacing
from hltm.data.labelled import LabelledBatch
from hltm.grammars.pcfg import PCFG
from hltm.sampling.philox import check_seed

Span = tuple[int, int]


@dataclass(frozen=True)
class SentenceDataset(Dataset[LabelledBatch]):
    """A map-style data set of pairs (x, y): strings of a grammar, and the constituents over some spans.

    Item i is row start + i of the strings of the seed, those of `grammar.sample(max_length=…)`; a slice or
    a list of places gives whole arrays: `x, y = data[:]`. x holds numbers of `grammar.terminals`, -1
    behind the end, and y is 0 where the span is no constituent and otherwise 1 + the number of the symbol in
    `grammar.symbols`. So `hltm.probe.LinearProbe(len(grammar.symbols) + 1)` and the metrics of `hltm.probe`
    take the activations of a network on x, `(U, B)`, with `y.T`; `grammar.posterior(x, spans)` is the
    belief that any network could have.

    Args:
        grammar: where strings are from.
        samples, seed, start: which rows.
        max_length: the most tokens of a string; longer ones are drawn again.
        spans: places (start, stop) of tokens start .. stop - 1.
        encode: what x becomes, from numbers `(B, T)`.

    Raises:
        TypeError: a grammar, or numbers, of another type.
        ValueError: samples below 1, a span outside of the strings, or as `PCFG.sample`.

    Example:
        >>> import hltm
        >>> grammar = hltm.PCFG.from_text("S -> S S [0.25] | 'a' [0.5] | 'b' [0.25]")
        >>> data = SentenceDataset(grammar, samples=100, seed=0, max_length=6, spans=[(0, 2), (1, 3)])
        >>> x, y = data[:]
        >>> x.shape, y.shape, bool(x.equal(grammar.sample(100, seed=0, max_length=6).tokens))
        (torch.Size([100, 6]), torch.Size([100, 2]), True)
    """

    grammar: PCFG
    samples: int
    seed: int
    max_length: int
    spans: Sequence[Span]
    start: int = 0
    encode: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grammar, PCFG):
            raise TypeError(f"grammar must be a hltm.PCFG, got {type(self.grammar).__name__}")
        as_integer("samples", self.samples, 1)
        as_integer("start", self.start, 0)
        as_integer("max_length", self.max_length, 0)
        check_seed(self.seed)
        try:
            spans = tuple((index(i), index(j)) for i, j in self.spans)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"spans must be pairs (start, stop) of integers, got {self.spans!r:.80}"
            ) from error
        object.__setattr__(self, "spans", spans)
        for i, j in spans:
            if not 0 <= i <= j <= self.max_length:
                raise ValueError(
                    f"span ({i}, {j}) is not within the {self.max_length} tokens of a string"
                )
        self.grammar.check_length(self.max_length)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int | Places) -> LabelledBatch:
        places = find_places(index, self.samples)
        rows = torch.from_numpy(places.reshape(-1)) + self.start
        found = self.grammar.sample_rows(rows, seed=self.seed, max_length=self.max_length)
        x = found.tokens if self.encode is None else self.encode(found.tokens)
        batch = LabelledBatch(x, found.labels(self.spans))
        return batch if places.ndim else item_of(batch, 0)

    def __getitems__(self, indices: Sequence[int]) -> BatchItems[LabelledBatch]:
        """The items of several places, drawn in one call; a torch loader uses this where it exists."""
        return BatchItems(self[indices], len(indices))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all rows as a Parquet file, which appears whole or not at all.

        Columns are `row`, `token_0`, …, null behind the end of a string, and `label_I_J` for every span. The
        metadata `hltm` of its schema is JSON: the grammar's text, the names by number, and the address.
        `encode` is not saved.
        """
        from pyarrow import parquet

        about = {
            "grammar": self.grammar.to_text(), "terminals": self.grammar.terminals,
            "symbols": self.grammar.symbols, "seed": self.seed, "max_length": self.max_length,
        }  # fmt: skip
        table = self._table().replace_schema_metadata({"hltm": json.dumps(about)})
        with replacing(local_path(path)) as partial:
            parquet.write_table(table, partial)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SentenceDataset:
        """The data set that `save` wrote to a file; its rows are drawn again and compared with the file's.

        Raises:
            OSError: a file that cannot be read.
            ValueError: a file that `save` did not write, or whose rows are not those of its grammar.

        Example:
            >>> import hltm, tempfile
            >>> grammar = hltm.PCFG.from_text("S -> S S [0.25] | 'a' [0.75]")
            >>> data = SentenceDataset(grammar, samples=9, seed=0, max_length=3, spans=[(0, 2)])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     data.save(f"{folder}/strings.parquet")
            ...     SentenceDataset.load(f"{folder}/strings.parquet") == data
            True
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.ParquetFile(local_path(path)).read()
            about = json.loads((table.schema.metadata or {})[b"hltm"])
            names = [name.split("_") for name in table.column_names]
            data = cls(
                PCFG.from_text(about["grammar"]), samples=len(table), seed=about["seed"],
                start=table["row"][0].as_py(), max_length=about["max_length"],
                spans=[(int(i), int(j)) for kind, *ends in names if kind == "label" for i, j in [ends]],
            )  # fmt: skip
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is no file that SentenceDataset.save wrote: {str(error)[:120]}"
            ) from error
        if not data._table().equals(table):
            raise ValueError(
                f"the rows of {os.fspath(path)!r} are not those of its grammar and its seed"
            )
        return data

    def _table(self) -> Any:
        """All rows as an Arrow table."""
        import pyarrow as pa

        found = self.grammar.sample(
            self.samples, seed=self.seed, start=self.start, max_length=self.max_length
        )
        columns = {"row": pa.array(range(self.start, self.start + self.samples), pa.int64())}
        for t, own in enumerate(found.tokens.unbind(1)):
            columns[f"token_{t}"] = pa.array(own.numpy(), pa.int32(), mask=(own < 0).numpy())
        for (i, j), own in zip(self.spans, found.labels(self.spans).unbind(1), strict=True):
            columns[f"label_{i}_{j}"] = pa.array(own.numpy(), pa.int32())
        return pa.table(columns)
