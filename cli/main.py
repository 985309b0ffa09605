"""The `specd` command: read the command line, call one function, turn errors into one line and a status.

Exit status: 0 done, 1 the work failed, 2 the command line or the settings are wrong, 130 interrupted.
"""

import sys
from collections.abc import Sequence

from cli.packages import check_packages
from cli.parser import make_parser
from core.errors import ConfigError, SpecdError
from core.registry import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parsed = make_parser().parse_args(arguments)
    try:
        check_packages()
        status: int = COMMANDS.load(parsed.command)(parsed)
    except ConfigError as error:
        return _fail(error, 2)
    except SpecdError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader went away, as `specd ... | head` does; closing stderr silences the interpreter at exit.
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _fail(error: SpecdError, status: int) -> int:
    print(f"specd: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
