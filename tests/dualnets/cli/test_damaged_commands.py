"""Random command lines: an answer, or one line that says what is wrong."""

import random

import pytest

from dualnets.cli import main

COMMANDS = ["run", "run emergence", "run losses", "tree", "sample", "probe", "runs", "runs show", "runs diff",
            "runs rm", "claims", "report", "images", "list", "--version", "nonsense"]  # fmt: skip
FLAGS = ["--seed", "--depth", "--members", "--units", "--lr", "--scale", "--out", "--workers", "--tree", "-n",
         "--family", "--nodes", "--views", "--augment", "--format", "--activations", "--model", "--rows",
         "--data", "--layers", "--steps", "--network", "--method", "--cluster", "--json",
         "--nonsense"]  # fmt: skip
VALUES = ["", "0", "-1", "1e30", "nan", "99999999999999999999", "0:8", "8:0", "0:99999999", "x" * 400,
          "[red]", "\x1b[31m", "a\nb", "\udcff", "s3://a/b", "/dev/null", "../..", "keep-root",
          "drop-leaves:2", "mlp", "npz", "json:decoder", "tcp://x", "local:-1", "--", "="]  # fmt: skip


def check_commands(folder, count, capsys, monkeypatch, commands=COMMANDS):
    monkeypatch.chdir(folder)
    rng, refused = random.Random(0), 0
    for _ in range(count):
        words = rng.choice(commands).split()
        words += ["--dry-run"] * (words[0] == "run" and len(words) > 1)
        for _ in range(rng.randrange(1, 4)):
            words += [rng.choice(FLAGS), *rng.choices(VALUES, k=rng.randrange(3))]
        status = main(words)  # any exception is a fault
        said = capsys.readouterr().err
        assert status in (0, 1, 2), words
        if status:
            refused += 1
            assert said.startswith("hltm: "), (words, said)
            assert said.count("\n") == 1, (words, said)
            for long in words:
                said = said.replace(long, "") if len(long) > 100 else said
            assert len(said) < 300, (words, said)
    assert [path.name for path in folder.iterdir()] == []
    assert refused > count // 2


def test_random_commands_answer_or_refuse_in_one_line(tmp_path, capsys, monkeypatch):
    cheap = [name for name in COMMANDS if name not in ("claims", "report", "images")]
    check_commands(tmp_path, 40, capsys, monkeypatch, cheap)


@pytest.mark.slow
def test_a_thousand_random_commands(tmp_path, capsys, monkeypatch):
    check_commands(tmp_path, 1000, capsys, monkeypatch)
