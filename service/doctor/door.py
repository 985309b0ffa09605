"""Is the door as it should be: who may ask, who may change the server, and is the port to be had."""

import socket
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from core.config import Settings
from core.config_check import is_loopback
from core.errors import ConfigError
from service.doctor.check import Check, failed, ok, unsure
from service.door.api_keys import read_keys
from service.http.admin_socket import MAX_PATH_BYTES, admin_path
from service.main import check_port

GROUP_OR_OTHERS_WRITE, GROUP_OR_OTHERS = 0o022, 0o077
TIMEOUT_S = 2.0


def check_door(settings: Settings) -> Iterator[Check]:
    """Look at keys, address, port and admin socket."""
    yield _address(settings)
    if settings.server.api_keys_file is not None:
        yield _keys(Path(settings.server.api_keys_file))
    for name, secret in (("redis_password_file", settings.queue.redis_password_file),):
        if secret is not None:
            yield _secret(name, Path(secret))
    yield _port(settings.server.host, settings.server.port)
    yield _admin(settings)


def _address(settings: Settings) -> Check:
    server = settings.server
    if server.api_keys_file is not None:
        return ok("address", f"{server.host}, and every request needs an API key")
    if is_loopback(server.host):
        return ok("address", f"{server.host}: only this machine reaches it, and nobody needs a key")
    return unsure(
        "address",
        f"{server.host} is open to other machines, and nobody needs a key (server.allow_no_keys)",
        "make a key (`specd keys create`) unless something else guards the port",
    )


def _keys(path: Path) -> Check:
    try:
        keys, mode = read_keys(path), path.stat().st_mode
    except (ConfigError, OSError) as error:
        return failed("API keys", str(error), "make the file with `specd keys create`, or name another")
    if mode & GROUP_OR_OTHERS_WRITE:
        return failed("API keys", f"others than its owner may write {path}", f"chmod 600 {path}")
    if mode & GROUP_OR_OTHERS:
        return unsure("API keys", f"others than its owner may read {path}: hashes and names", f"chmod 600 {path}")
    if not keys:
        return unsure("API keys", f"{path} has none: nobody gets in", "make one with `specd keys create`")
    return ok("API keys", f"{len(keys)} in {path}")


def _secret(name: str, path: Path) -> Check:
    try:
        path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        return failed(name, f"cannot read {path}: {error.strerror}", "make it readable for the user that specd runs as")
    if mode & GROUP_OR_OTHERS:
        return failed(name, f"others than its owner may read {path}", f"chmod 600 {path}")
    return ok(name, f"{path}, for its owner alone")


def _port(host: str, port: int) -> Check:
    where = f"{host}:{port}"
    try:
        check_port(host, port)
    except ConfigError as error:
        if _answers(host, port):
            return ok("port", f"a server answers on {where}")
        return failed("port", str(error), "stop what has it, or take another port (server.port)")
    except socket.gaierror as error:
        return failed("port", f"{host!r} is no address of this machine: {error}", "name one that is (server.host)")
    return ok("port", f"{where} is free")


def _answers(host: str, port: int) -> bool:
    connection = HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=TIMEOUT_S)  # noqa: S104
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _admin(settings: Settings) -> Check:
    path = admin_path(settings.server)
    if path is None:
        return ok("admin socket", "none: drafters cannot be loaded while it runs")
    if len(bytes(path)) > MAX_PATH_BYTES:
        return failed("admin socket", f"{path} is too long for a socket", "name a shorter path (server.admin)")
    if path.parent.exists() and path.parent.stat().st_mode & GROUP_OR_OTHERS_WRITE:
        return unsure("admin socket", f"others may write in {path.parent}", f"chmod go-w {path.parent}")
    return ok("admin socket", str(path))
