"""A queue over TLS: whoever cannot show a certificate of the named authority is not talked to."""

import subprocess
from contextlib import contextmanager

import msgspec
import pytest
from redis import Redis

from client.redis_address import redis_address
from client.redis_executable import redis_executable
from core.errors import ConfigError, QueueError
from core.processes import die_with_parent
from core.queue_settings import QueueSettings
from service.main import check_redis, free_port
from tests.conftest import until_it_answers
from tests.service.fakes import FakeEngine, fake_settings, running

trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
PASSWORD = "p@ss/w:rd"


def has_tls() -> bool:
    said = subprocess.run(
        [redis_executable(), "--port", "0", "--tls-port", "0", "--tls-replication", "maybe"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return "Bad directive" not in said.stderr + said.stdout


needs_tls = pytest.mark.skipif(not has_tls(), reason="this redis-server was built without TLS")


@contextmanager
def tls_redis(folder, authority):
    port, socket = free_port("127.0.0.1"), folder / "redis.sock"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = [
        *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(socket), "--save", ""),
        *("--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")),
        *("--tls-ca-cert-file", str(folder / "ca.pem"), "--tls-auth-clients", "no", "--requirepass", PASSWORD),
        *("--dir", str(folder)),
    ]
    with subprocess.Popen(
        [redis_executable(), *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
    ) as process:
        try:
            with Redis(unix_socket_path=str(socket), password=PASSWORD) as client:
                until_it_answers(client)
            yield f"rediss://127.0.0.1:{port}/0"
        finally:
            process.terminate()


@needs_tls
async def test_it_is_served_over_tls_with_the_password_of_a_file(tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    with tls_redis(tmp_path, trustme.CA()) as url:
        files = {"redis_password_file": str(tmp_path / "password"), "redis_ca_file": str(tmp_path / "ca.pem")}
        settings = fake_settings(url, tmp_path / "model", **files)
        async with running(settings, FakeEngine()) as service:
            assert (await service.post(prompt="a", max_tokens=5))[0] == 200
            assert await service.stream(prompt="a", max_tokens=5)


@needs_tls
async def test_a_certificate_of_another_authority_is_refused(tmp_path):
    (tmp_path / "password").write_text(PASSWORD, encoding="utf-8")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with tls_redis(tmp_path, trustme.CA()) as url:
        for ca_file in (str(tmp_path / "other.pem"), None):
            with pytest.raises(QueueError, match=r"out of reach at rediss://\*\*\*@.*certificate"):
                await check_redis(QueueSettings(url, str(tmp_path / "password"), ca_file))
        await check_redis(QueueSettings(url, str(tmp_path / "password"), str(tmp_path / "ca.pem")))


def test_files_that_are_not_there_are_told(tmp_path):
    settings = fake_settings("redis://h", tmp_path / "model").queue
    for field, words in (("redis_password_file", "cannot read the Redis password"), ("redis_ca_file", "no file of")):
        wrong = msgspec.structs.replace(settings, **{field: str(tmp_path / "none")})
        with pytest.raises(ConfigError, match=words):
            redis_address(wrong.redis_url, wrong.redis_password_file, wrong.redis_ca_file)
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="is empty"):
        redis_address("redis://h", str(tmp_path / "empty"))
    (tmp_path / "password").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="keep the file"):
        redis_address("redis://u:p@h", str(tmp_path / "password"))
