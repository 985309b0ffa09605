"""Print what pyproject.toml asks for, one requirement a line: `requirements.py [EXTRA ...]`.

A layer of the image with only the dependencies stays as it is while the code changes.
"""

import re
import sys
import tomllib
from pathlib import Path

OWN = re.compile(r"specd\[(.*)\]")


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of specd with these extras; raises KeyError for one that is not there."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, optional = list(project["dependencies"]), project["optional-dependencies"]
    wanted = list(extras)
    while wanted:
        for each in optional[wanted.pop()]:
            # An extra may take in others, "specd[worker]"; pip would look for such a package in its index.
            own = OWN.fullmatch(each)
            wanted += own[1].split(",") if own else []
            found += [] if own else [each]
    return found


if __name__ == "__main__":
    print(*requirements(sys.argv[1:]), sep="\n")
