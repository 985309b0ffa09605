"""The command line as data: every subcommand and flag, and how flags map on settings. Imports no torch."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cli.api_key import add_api_key_flag
from cli.bench_flags import add_bench_flags
from cli.data_flags import add_data_flags
from cli.eval_flags import add_eval_flags
from cli.experiment_flags import add_experiment_flags
from cli.simulate_flags import add_simulate_flags
from core.batch_lengths import read_batch_lengths
from core.config import SECTIONS, Settings, nearest
from core.errors import ConfigError
from core.registry import DRAFTERS
from core.speculative_config import speculative_flags
from models.drafter_kind import drafter_kind

SERVER_URL = "http://127.0.0.1:8000"

# flag -> setting; flags of this table are passed on as they are.
SETTING_FLAGS = {
    "host": "server.host",
    "port": "server.port",
    "role": "server.role",
    "target": "engine.target",
    "target_revision": "engine.target_revision",
    "verifier": "engine.verifier",
    "numerics": "engine.numerics",
    "redis_url": "queue.redis_url",
    "admin": "server.admin",
    "api_keys": "server.api_keys_file",
    "allow_no_keys": "server.allow_no_keys",
    "redis_password_file": "queue.redis_password_file",
    "redis_ca_file": "queue.redis_ca_file",
    "redis_cluster": "queue.redis_cluster",
}
# policy kind -> the field that "kind:value" sets, and how to read the value.
POLICY_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "fixed": ("policy.length", int),
    "confidence": ("policy.threshold", float),
    "batch_table": ("policy.lengths", lambda text: read_batch_lengths(text, "--policy batch_table:VALUE")),
}

DRAFTER_HELP = (
    f"{', '.join(SECTIONS['drafter'])}; a checkpoint's folder or Hub id, whose kind is read from it; or a name that an "
    "installed package has registered"
)
POLICY_HELP = (
    "how much to verify: load_adaptive (the default), off, fixed[:N], confidence[:P], batch_table:1-8=7,9-32=3, "
    "goodput, greedy, slo, or a name that an installed package has registered"
)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="specd", description="The speculative-decoding daemon.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"specd {version('specd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a model over HTTP and Redis", allow_abbrev=False)
    _add_settings(serve)

    complete = commands.add_parser("complete", help="stream a completion from a running server")
    _add_prompt(complete)
    complete.add_argument("--url", default=SERVER_URL, help="the server (default %(default)s)")
    complete.add_argument("--model", help="model name (default: the one the server serves)")
    add_api_key_flag(complete)

    submit = commands.add_parser("submit", help="put a job straight into Redis and follow its stream")
    _add_prompt(submit)
    submit.add_argument("--redis-url", required=True, help="the Redis that the workers read")
    _add_redis_files(submit)

    add_data_flags(commands.add_parser("data", help="make training data: let the target answer, prepare what it wrote"))

    _add_train(commands.add_parser("train", help="train a target or a drafter"))

    _add_calibrate(commands.add_parser("calibrate", help="fit what a drafter's confidence means", allow_abbrev=False))

    add_eval_flags(commands.add_parser("eval", help="measure what drafters are worth on tasks", allow_abbrev=False))

    explain = commands.add_parser("explain", help="what a running server's policies saw, expected and chose lately")
    explain.add_argument("--url", default=SERVER_URL, help="the server (default %(default)s)")
    add_api_key_flag(explain)
    explain.add_argument("--steps", type=int, default=16, help="most steps to show (default %(default)s)")

    inspect = commands.add_parser("inspect", help="say what a checkpoint holds")
    inspect.add_argument("path", metavar="PATH|HUB_ID")
    inspect.add_argument("--revision", help="of a Hub id: commit, tag or branch")
    inspect.add_argument("--target", metavar="PATH|HUB_ID", help="say also whether the drafter fits this target")

    drafters = commands.add_parser("drafters", help="list, load or unload the drafters of a running server")
    drafters.add_argument("action", choices=["list", "load", "unload"], nargs="?", default="list")
    drafters.add_argument("name", nargs="?", metavar="NAME")
    drafters.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="as in a table [drafters.NAME]: kind=dspark path=FOLDER"
    )
    drafters.add_argument(
        "--socket", metavar="PATH", help="the server's admin socket (default: as `specd serve` has it)"
    )
    drafters.add_argument(
        "--port", type=int, help="of the server, which its admin socket is named after (default 8000)"
    )
    drafters.add_argument("--config", type=Path, metavar="FILE", help="the server's TOML settings")
    drafters.add_argument("--timeout", type=float, default=120.0, help="seconds to wait (default %(default)s)")

    add_experiment_flags(commands.add_parser("experiment", help="try policies against each other on live traffic"))

    _add_keys(commands.add_parser("keys", help="make, list or revoke the API keys that a server takes"))

    acl = commands.add_parser(
        "redis-acl", help="print Redis users for gateways, workers and clients, with their rights"
    )
    acl.add_argument("folder", type=Path, metavar="DIR", help="of passwords, a file per user; drawn if not there")
    acl.add_argument("--redis-6", action="store_true", help="without read-only and write-only keys, which came with 7")

    doctor = commands.add_parser("doctor", help="check a deployment and say how to mend it")
    doctor.add_argument("--json", action="store_true", help="one JSON object per check")
    _add_settings(doctor)

    config = commands.add_parser(
        "config", help="show or check the settings a server would run with, or print what there are"
    )
    config.add_argument("action", choices=["show", "check", "reference"])
    _add_settings(config)

    commands.add_parser("demo", help="answer three questions with and without speculation, side by side")
    add_bench_flags(commands.add_parser("bench", help="compare decoding modes under load on this machine"))

    add_simulate_flags(
        commands.add_parser(
            "simulate",
            help="play policies and fleets on a virtual clock: which policy, how many workers",
            allow_abbrev=False,
        )
    )

    prove = commands.add_parser("prove", help="prove that no policy, load or rule changes the output law")
    effort = prove.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="every pair of choices (the default)")
    effort.add_argument(
        "--full", action="store_true", help="every combination, at a fifth of the distance; an hour or two"
    )
    prove.add_argument("--drafter", metavar="NAME", help="prove one drafter, and keep its proof if specd ships it not")
    prove.add_argument("--seed", type=int, default=0, help="other draws of the same kind (default %(default)s)")
    prove.add_argument("--output", type=Path, metavar="DIR", help="write certificate.md and certificate.json there")
    prove.add_argument("--config", type=Path, metavar="FILE", help="TOML settings, for engine.proof_dir")
    return parser


def setting_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what the command line says as "section.field" values, for core.config.load_settings."""
    flags: dict[str, object] = {name: getattr(arguments, flag) for flag, name in SETTING_FLAGS.items()}
    if arguments.drafter is not None:
        flags |= drafter_flags(arguments.drafter, arguments.drafter_revision)
    elif arguments.drafter_revision is not None:
        flags["drafter.revision"] = arguments.drafter_revision
    if arguments.policy is not None:
        flags |= policy_flags(arguments.policy)
    if arguments.speculative_config is not None:
        told = speculative_flags(arguments.speculative_config, drafter_kind)
        for flag, kind in (("--drafter", "drafter.kind"), ("--policy", "policy.kind")):
            if kind in flags and kind in told:
                raise ConfigError(f"--speculative-config and {flag} both say {kind}; give one of them")
        flags |= told
    return flags


def drafter_flags(text: str, revision: str | None = None) -> dict[str, object]:
    """Read --drafter and its revision: a kind, "demo", a checkpoint folder or a Hub id, whose config.json has the kind.

    Raises ConfigError, and CheckpointError for a checkpoint that is no drafter of ours.
    """
    named: dict[str, object] = {} if revision is None else {"drafter.revision": revision}
    if text in SECTIONS["drafter"]:
        return {"drafter.kind": text, **named}
    if text != "demo" and "/" not in text:
        kinds = [*SECTIONS["drafter"], *(plugins := DRAFTERS.plugins())]
        if text in plugins:
            return {"drafter.kind": text, **named}
        if not Path(text).is_dir():
            raise ConfigError(
                f"--drafter must be a kind, a checkpoint folder or a Hub id, got {text!r}; {nearest(text, kinds)}"
            )
    return {"drafter.kind": drafter_kind(text, revision), "drafter.path": text, **named}


def policy_flags(text: str) -> dict[str, object]:
    """Read --policy: a kind, or "kind:value" for the kinds that have one. Raises ConfigError."""
    kind, separator, value = text.partition(":")
    if not separator:
        return {"policy.kind": kind}
    if kind not in POLICY_VALUES:
        raise ConfigError(f"--policy takes a value only for {', '.join(POLICY_VALUES)}, got {text!r}")
    name, read = POLICY_VALUES[kind]
    try:
        return {"policy.kind": kind, name: read(value)}
    except ValueError:
        raise ConfigError(f"--policy {kind}:VALUE needs a number for {name}, got {value!r}") from None


def _add_settings(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML settings; flags and SPECD_* win")
    parser.add_argument("--host", help=f"address to listen on (default {defaults.server.host})")
    parser.add_argument("--port", type=int, help=f"0 takes a free one (default {defaults.server.port})")
    parser.add_argument("--role", help="all, gateway or worker (default all)")
    parser.add_argument("--target", help='"demo", a checkpoint folder or a Hub id, "owner/name"')
    parser.add_argument("--target-revision", metavar="REVISION", help="of a Hub id: commit, tag or branch")
    parser.add_argument("--drafter", metavar="KIND|PATH|HUB_ID|NAME", help=DRAFTER_HELP)
    parser.add_argument("--drafter-revision", metavar="REVISION", help="of a Hub id: commit, tag or branch")
    parser.add_argument("--policy", metavar="POLICY", help=POLICY_HELP)
    parser.add_argument("--speculative-config", metavar="JSON", help="vLLM's, in place of --drafter and --policy")
    parser.add_argument("--verifier", help="rejection or coupled (default rejection)")
    parser.add_argument("--numerics", help="fast or batch_invariant (default fast)")
    parser.add_argument("--admin", metavar="PATH|off", help="unix socket for loading and unloading drafters")
    parser.add_argument("--api-keys", metavar="FILE", help="let in only who has one of these keys (`specd keys`)")
    parser.add_argument(
        "--allow-no-keys", action="store_true", default=None, help="ask nobody for a key, whoever reaches the port"
    )
    parser.add_argument("--redis-url", help="redis://, rediss:// or unix:// (default: a private server)")
    _add_redis_files(parser)


def _add_redis_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis-password-file", metavar="FILE", help="of the user that the URL of Redis names")
    parser.add_argument("--redis-ca-file", metavar="FILE", help="authorities that may sign a rediss:// certificate")
    parser.add_argument(
        "--redis-cluster", action="store_true", default=None, help="the URL names a node of a Redis Cluster"
    )


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["create", "list", "revoke"])
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--file", type=Path, metavar="FILE", help="(default: server.api_keys_file of the settings)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML settings")
    parser.add_argument("--tenant", help="who owns the key's jobs (default: NAME); several keys may share one")
    parser.add_argument("--max-concurrency", type=int, metavar="N", help="jobs queued or running at once")
    parser.add_argument("--requests-per-minute", type=int, metavar="N")
    parser.add_argument("--max-prompt-tokens", type=int, metavar="N")
    parser.add_argument("--top-priority", choices=["high", "normal", "low"], help="(default high)")


def _add_train(train: argparse.ArgumentParser) -> None:
    what = train.add_subparsers(dest="what", required=True, metavar="WHAT")
    drafter = what.add_parser("drafter", help="train a drafter as a recipe says", allow_abbrev=False)
    features = what.add_parser("features", help="keep a recipe's features on disk, for many epochs over few texts")
    for parser in (drafter, features):
        parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a shipped recipe's name, such as demo")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="change a key of the recipe"
        )
    features.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    demo = what.add_parser("demo", help="rebuild the demo pair from nothing")
    demo.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of states and loss curves")
    demo.add_argument("--output", type=Path, help="where checkpoints go (default: the shipped demo)")
    source = demo.add_mutually_exclusive_group()
    source.add_argument("--target", type=Path, help="take this target instead of training one")
    source.add_argument(
        "--target-start", type=Path, metavar="FOLDER", help="go on from this trained target, mostly with conversations"
    )
    demo.add_argument(
        "--start-share",
        type=float,
        default=0.6,
        help="share of the start's weights in what --target-start writes (default %(default)s)",
    )
    demo.add_argument(
        "--kind",
        choices=["dspark", "dflash", "eagle3"],
        default="dspark",
        help="of the drafter (default %(default)s)",
    )
    demo.add_argument("--target-minutes", type=float, default=70.0, help="(default %(default)s)")
    demo.add_argument("--target-tokens", type=int, help="end the target's training here, if its minutes do not")
    demo.add_argument("--drafter-minutes", type=float, default=40.0, help="(default %(default)s)")
    demo.add_argument(
        "--text-tokens", type=int, default=1_500_000, help="tokens the target writes for its drafter to learn from"
    )
    demo.add_argument("--threads", type=int, default=2, help="torch threads (default %(default)s)")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="demo", help='"demo" or a checkpoint folder')
    parser.add_argument(
        "--drafter", default="dspark", metavar="KIND|PATH|HUB_ID", help="a kind, or a checkpoint (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=30_000, help="half are fitted on (default %(default)s)")
    parser.add_argument(
        "--prompts",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what to ask: JSONL as for `specd eval`, folders of it, or JSON of texts by source (the demo has its own)",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="of an answer whose prompt sets no limit (default %(default)s)"
    )
    parser.add_argument(
        "--bad-lines", choices=["fatal", "skip"], default="fatal", help="lines that cannot be asked (default fatal)"
    )
    parser.add_argument("--fit", choices=["logistic", "temperature"], default="logistic", help="which one to write")
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: calibration.json beside the checkpoint)")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write all that was measured")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the reliability diagram, and one per source beside it"
    )
    parser.add_argument("--concurrency", type=int, default=64, help="requests at once (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--priority", type=int, help="less is more urgent (default 0)")
    parser.add_argument(
        "--deadline-ms", type=int, metavar="MS", help="how long the answer may take (default: no limit)"
    )
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--chat", action="store_true", default=True, help="as a user's turn (the default)")
    style.add_argument("--raw", dest="chat", action="store_false", help="as text to go on with")
