"""`python -m bench NAME [--json] [options of that bench]`; without a name, or with `all`, each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import wal
from bench.measure import Row, print_rows

AddOptions = Callable[[argparse._ArgumentGroup], None]
Measure = Callable[[argparse.Namespace], list[Row]]
BENCHES: dict[str, tuple[AddOptions, Measure]] = {
    "wal": (wal.add_options, wal.measure),
}


def main(arguments: list[str]) -> int:
    """Run what the arguments name; 0 when everything was measured, whatever came out."""
    names = list(BENCHES)
    if arguments and not arguments[0].startswith("-"):
        chosen, *arguments = arguments
        if chosen not in {*BENCHES, "all"}:
            print(f"there is no bench {chosen}: one of {', '.join(names)}, all", file=sys.stderr)  # noqa: T201
            return 2
        names = names if chosen == "all" else [chosen]
    parser = argparse.ArgumentParser(prog="bench " + ("all" if len(names) > 1 else names[0]))
    parser.add_argument("--json", action="store_true", help="print a list, and no table")
    for name in names:
        BENCHES[name][0](parser.add_argument_group(name))
    options = parser.parse_args(arguments)
    rows = [row for name in names for row in BENCHES[name][1](options)]
    print_rows(rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
