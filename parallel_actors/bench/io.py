"""I/O in processes, beside bare asyncio in the same OS process."""

from __future__ import annotations

import time

import parallel_actors as pa

__all__ = ["async_echo"]


async def _echo(count: int) -> float:
    """Round trips per second of one connection whose both ends are here, 64 bytes each."""
    import asyncio  # workers have it only where it is used

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    began = time.perf_counter()
    for _ in range(count):
        writer.write(b"x" * 64)
        await reader.readexactly(64)
    took = time.perf_counter() - began
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0.01)  # the other end finds out
    return count / took


async def _tell(count: int, to: pa.Pid) -> None:
    pa.send(to, await _echo(count))


def async_echo(count: int) -> list[float]:
    """Round trips per second of an `async def` process, and of `asyncio.run` in the same worker."""
    import asyncio

    pa.options(worker=pa.worker_index()).spawn_link(_tell, count, pa.self_())
    return [pa.receive(float), asyncio.run(_echo(count))]
