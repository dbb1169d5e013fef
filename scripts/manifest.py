"""The manifest of a folder of build results: given facts, and size and SHA-256 of each file.

manifest.py FOLDER KEY=VALUE...   (a value with `name version` lines becomes a table)
"""

import hashlib
import json
import pathlib
import sys


def table(value: str):
    rows = [line.split() for line in value.splitlines()]
    if len(rows) > 1 and all(len(row) == 2 for row in rows):
        return dict(rows)
    return int(value) if value.isdigit() else value


def entry(path: pathlib.Path) -> dict:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


folder = pathlib.Path(sys.argv[1])
facts = {key: table(value) for key, value in (argument.split("=", 1) for argument in sys.argv[2:])}
files = {path.name: entry(path) for path in sorted(folder.iterdir()) if path.is_file()}
json.dump({**facts, "files": files}, sys.stdout, indent=2, sort_keys=True)
print()
