"""Print the tables of logs of test.py, without training: python -m report.show FILE.jsonl ...

Rounds of other versions, devices and numbers of pairs have tables of their own; of a row whose
arguments were edited the last ones count.
"""

import argparse
import json
from pathlib import Path

import test
from report.files import VERSIONS, fail


def tables(path):
    """The lines of all tables of a log."""
    runs = {}
    for text in path.read_text().splitlines():
        line = {"one_answer": False} | json.loads(text)  # which the first logs did not have
        rows = runs.setdefault(tuple(line[key] for key in ("pairs", *VERSIONS)), {})
        rows.setdefault(line["row"], []).append(line)
    for rows in runs.values():
        for name, lines in rows.items():
            last = lines[-1]["arguments"]
            rows[name] = [line for line in lines if line["arguments"] == last]
        for n, (name, lines) in enumerate(rows.items()):
            found = {line["seed"]: line for line in lines}
            *header, row = test.table({name: lines[-1]}, found, found, as_reported=False)
            yield from [row] if n else [*header, row]
        yield ""


def main():
    parser = argparse.ArgumentParser("python -m report.show", description=__doc__.split(":")[0])
    parser.error = fail
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.jsonl")
    for path in parser.parse_args().files:
        try:
            print(f"{path}:", *tables(path), sep="\n")
        except (KeyError, OSError, TypeError, ValueError) as error:
            fail(f"{path} is no log of test.py ({error!r})")


if __name__ == "__main__":
    main()
