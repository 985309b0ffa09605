"""The proxy between processes and Redis ends with all that goes through it."""

import asyncio

from tests.faults.proxy import Proxy


async def test_a_proxy_ends_although_somebody_becomes_a_link_while_others_are_cut(tmp_path, monkeypatch):
    socket, connect = str(tmp_path / "upstream"), asyncio.open_unix_connection
    taken = asyncio.Queue()

    async def hold(reader, writer):
        await reader.read()
        writer.close()

    async def connect_soon(path):
        taken.put_nowait(path)
        await asyncio.sleep(0.002)
        return await connect(path)

    monkeypatch.setattr(asyncio, "open_unix_connection", connect_soon)
    async with await asyncio.start_unix_server(hold, socket), asyncio.timeout(10):
        async with Proxy(socket) as proxy:
            port = int(proxy.url.rpartition(":")[2])
            clients = [await asyncio.open_connection("127.0.0.1", port)]
            while not proxy.links:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            clients.append(await asyncio.open_connection("127.0.0.1", port))
            await taken.get()
            await taken.get()
            assert len(proxy.links) == 1
        assert not proxy.links
        for _, writer in clients:
            writer.close()
