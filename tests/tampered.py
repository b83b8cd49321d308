"""`python -m tests.tampered FOLDER`: every Parquet file that a stage reads, damaged in every way of
`WAYS`. Prints the result of each case as JSON.

It has a process of its own, because it forks one for each stage, and a fork of a process that has
used torch's threads hangs.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from benchmarks.torture import isolation, workspace
from benchmarks.torture.cases import READERS

Table = pd.DataFrame


def each(table: Table, cell: object) -> Table:
    """Return the table with this cell everywhere."""
    return pd.DataFrame({name: pd.Series([cell] * len(table)) for name in table.columns})


# What a table is replaced by: another table, or bytes.
WAYS: dict[str, Callable[[Path], Table | bytes]] = {
    "cut": lambda file: file.read_bytes()[: file.stat().st_size // 2],
    "renamed": lambda file: pd.read_parquet(file).add_suffix("_"),
    "no rows": lambda file: pd.read_parquet(file).iloc[:0],
    "numbers": lambda file: each(pd.read_parquet(file), 7),
}


def cases(base: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield each reading stage, a file that it reads, and a way to damage it."""
    for name in READERS:
        for file in workspace.inputs_of(base, name):
            if file.suffix == ".parquet":
                for way in WAYS:
                    yield name, file.relative_to(base), way


def result(base: Path, place: Path, name: str, file: Path, way: str) -> dict[str, object]:
    """Return what the stage does with the damaged file."""
    folder = workspace.copy(base, place / "w")
    damaged = WAYS[way](base / file)
    (folder / file).unlink()
    if isinstance(damaged, bytes):
        (folder / file).write_bytes(damaged)
    else:
        damaged.to_parquet(folder / file, index=False)
    found = isolation.start(workspace.stage_call(name), place, folder).wait()
    case = {"stage": name, "file": str(file), "way": way, "status": found.status}
    faults = isolation.faults(found, several=False)
    shutil.rmtree(place)
    return {**case, "faults": faults, "said": found.err[-2000:]}


def main(folder: Path) -> None:
    workspace.import_everything()
    base = folder / "base"
    workspace.make(base)
    results = [
        result(base, folder / f"case{number}", *case) for number, case in enumerate(cases(base))
    ]
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
