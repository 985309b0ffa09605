"""Where Redis is, with the secrets that settings name by file: they stand in no setting, flag or variable."""

from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from core.errors import ConfigError


def redis_address(url: str, password_file: str | None = None, ca_file: str | None = None) -> str:
    """Return the URL with the password of a file, and checked against the authorities of another.

    Raises ConfigError if a file cannot be read, or the URL has a password of its own.
    """
    if password_file is not None:
        url = _with_password(url, _read(password_file))
    if ca_file is not None:
        if not Path(ca_file).is_file():
            raise ConfigError(f"there is no file of certificate authorities at {ca_file}")
        url += ("&" if urlsplit(url).query else "?") + urlencode({"ssl_ca_certs": ca_file})
    return url


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    if parts.password is not None:
        raise ConfigError("the Redis URL has a password, and a password file is named; keep the file")
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _read(path: str) -> str:
    try:
        password = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the Redis password from {path}: {error}") from error
    if not password:
        raise ConfigError(f"the Redis password file {path} is empty")
    return password
