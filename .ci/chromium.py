"""Headless Chromium over its DevTools pipe: opens pages, evaluates, takes pictures. Messages are JSON ended by NUL."""

import base64
import json
import os
import shutil
import subprocess
import tempfile

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--remote-debugging-pipe"]


class Chromium:
    def __init__(self):
        self.folder = tempfile.mkdtemp()
        out_read, self.out = os.pipe()
        self.incoming, in_write = os.pipe()

        def pipes():
            # Chromium reads commands from 3 and writes answers to 4; copies first, lest one overwrite the other.
            read, write = os.dup(out_read), os.dup(in_write)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={self.folder}"], preexec_fn=pipes, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(out_read)
        os.close(in_write)
        self.buffer, self.number, self.events = b"", 0, []

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.page(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def read(self):
        while b"\0" not in self.buffer:
            got = os.read(self.incoming, 1 << 20)
            if not got:
                raise RuntimeError("chromium ended")
            self.buffer += got
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def page(self, method, **parameters):
        return self.call(method, self.session, **parameters)

    def look(self, width, height, scheme):
        """As a window of this size in this color scheme."""
        self.page("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def offline(self, offline):
        """Whether requests fail; what the cache holds does not count."""
        self.page("Network.setCacheDisabled", cacheDisabled=offline)
        self.page("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1,
                  uploadThroughput=-1)

    def evaluate(self, expression):
        result = self.page("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def open(self, url, ready):
        """Opens a page and waits until `ready` is true in it."""
        self.events.clear()
        self.page("Page.navigate", url=url)
        self.evaluate("new Promise((done) => { const look = () => { try { if (document.readyState === 'complete' && "
                      f"({ready})) return done(true); }} catch {{}} setTimeout(look, 50); }}; look(); }})")

    def complaints(self):
        """What the console says: errors, refused by the Content-Security-Policy or not."""
        found = []
        for event in self.events:
            if event.get("method") == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                found.append(json.dumps(event["params"]))
        return found

    def picture(self, path):
        shot = self.page("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
