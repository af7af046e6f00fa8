"""A text server in this process, on a free port, for as long as a block lasts."""

import asyncio
import contextlib
import threading
import time

from aiohttp import web


@contextlib.contextmanager
def running(server, *, ready=True, drain=5.0):
    """Its address; the loop runs in a thread of its own."""
    loop, bound, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    address = []

    async def serve():
        runner = web.AppRunner(server.application(), handler_cancellation=True, shutdown_timeout=drain)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append("http://{}:{}".format(*runner.addresses[0]))
        bound.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert bound.wait(120)
        if ready:
            wait_until(lambda: server.worker.state != "loading")
            assert server.worker.state == "ready"
        yield address[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(120)
        assert not thread.is_alive()
        loop.close()


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.005)
