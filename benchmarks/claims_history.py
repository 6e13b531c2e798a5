"""Keep the outcomes of claims for good: `python benchmarks/claims_history.py`.

`hltm claims --markdown` replaces the files in claims/. This appends each outcome there that is new, by its
run or its verdict, to claims_history.jsonl with the day of today: one line of JSON each, oldest first.
"""

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
from claim_pages import HISTORY, history, key, outcomes  # noqa: E402

LEFT_OUT = {"reference", "flat", "scale", "command", "cpu_seconds", "partner"}


def new_outcomes():
    """The stored outcomes that the history does not have, as its lines have them."""
    known = {key(past) for past in history()}
    today = datetime.date.today().isoformat()
    for claims in outcomes().values():
        for own in claims.values():
            for found in own:
                values = {n: v for n, v in asdict(found.claim).items() if n not in LEFT_OUT}
                line = {"date": today, "scale": found.scale, "seeds": list(found.seeds), **values}
                if key(line) not in known:
                    yield line


if __name__ == "__main__":
    lines = list(new_outcomes())
    with HISTORY.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    print(f"{len(lines)} new outcomes")
