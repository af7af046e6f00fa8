"""A headless Chromium on one page, driven over its DevTools protocol."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request

from websockets.sync.client import connect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)


class Page:
    def __init__(self, socket):
        self._socket, self._number = socket, 0

    def _ask(self, method, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=120))).get("id") != self._number:
            pass
        return answer["result"]

    def text(self):
        """What a reader sees."""
        return self._ask("Runtime.evaluate", expression="document.body?.innerText ?? ''")["result"]["value"]

    def until(self, pattern, seconds=120.0):
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.text())) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self.text()!r}"
            time.sleep(0.1)
        return found

    def count(self, selector):
        expression = f"document.querySelectorAll({json.dumps(selector)}).length"
        return self._ask("Runtime.evaluate", expression=expression)["result"]["value"]

    def screenshot(self):
        """PNG bytes."""
        return base64.b64decode(self._ask("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def browsing(url, folder):
    command = [BROWSER, *FLAGS, "--window-size=900,700", f"--user-data-dir={folder}", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = next(match for line in process.stderr if (match := re.search(r"ws://([^/]+)/devtools", line)))
            with urllib.request.urlopen(f"http://{found[1]}/json/list") as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
