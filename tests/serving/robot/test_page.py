"""A real browser shows the cameras, the chunk and the response times of a client that is being served."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from serving.robot.wire import pack
from tests.serving.robot.machine import echo_server, message
from tests.serving.text.running import running

client = pytest.importorskip("websockets.sync.client")
browser = pytest.importorskip("tests.serving.robot.browser")
pytestmark = pytest.mark.skipif(browser.BROWSER is None, reason="no chromium on this machine")


def test_the_page_shows_what_the_server_does(tmp_path):
    end, headers = threading.Event(), {"Authorization": "Api-Key secret"}

    def robot(url):
        with client.connect(url.replace("http", "ws"), additional_headers=headers) as socket:
            socket.recv()
            while not end.wait(0.02):
                socket.send(pack(message(prompt="push <b>it</b>")))
                socket.recv()

    with (
        running(echo_server(token="secret", live_seconds=0.05), ready=False) as url,
        browser.browsing(f"{url}/?token=secret", tmp_path) as page,
    ):
        page.until("no client connected")
        thread = threading.Thread(target=robot, args=(url,))
        thread.start()
        page.until("1 client connected")
        page.until(r"Client 1 · arm · 127\.0\.0\.1\s+“push <b>it</b>”")
        page.until(r"0: 1\.000 … 4\.000")
        page.until(r"half within [\d.]+, 99 % within [\d.]+; \d\d+ answers in")
        assert page.count("img[src^='data:image/jpeg;base64,']") == 1
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        assert (pixels.max(-1) - pixels.min(-1) > 80).sum() > 2000  # the lines of the chunk and the bars
        end.set()
        thread.join()
        page.until("no client connected")
        assert page.count("article") == 0
