"""Looks at the page in headless Chromium: with an empty queue, a busy one, one with problems, and out of reach.

In each state, in light and dark and on a phone: the numbers are shown, the console is silent (a script, style or
request that the Content-Security-Policy refused would say so there), and nothing is wider than the screen. The
pictures are in target/check-page, for people to look at.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import sys
import uuid

from chromium import Chromium
from local_api import Machine, admin, send, stack

FOLDER = pathlib.Path("target/check-page")
SAMPLE = json.loads(json.loads(pathlib.Path("events/runs-enqueue.json").read_text(encoding="utf-8"))["body"])
RESULT = json.loads(json.loads(pathlib.Path("events/submit.json").read_text(encoding="utf-8"))["body"])["envelope"]
LOOKS = {"light": (1100, 900, "light"), "dark": (1100, 900, "dark"), "phone": (390, 844, "light"),
         "phone-dark": (390, 844, "dark")}


def must(answer, *expected):
    status, reply = answer
    if status not in expected:
        sys.exit(f"check-page: {status} {reply}")
    return reply


def enqueue(url, count, billions=9.0, quantization="q4_k_m", **more):
    runs = []
    for _ in range(count):
        run = json.loads(json.dumps(SAMPLE).replace(SAMPLE["run_id"], str(uuid.uuid4())))
        descriptor = run["models"][0]["descriptor"]
        descriptor |= {"active_parameter_count_b": billions, "quantization": quantization}
        runs.append({**run, **more})
    must(admin(url, "POST", "/api/admin/runs", {"runs": runs}), 201)


class Runner:
    def __init__(self, url, name, vram_gb, quantizations):
        self.url, self.machine = url, Machine()
        must(admin(url, "POST", "/api/admin/keys", {"public_key": self.machine.public_key, "label": name}), 201)
        registration = {"public_key": self.machine.public_key, "runner_id": name,
                        "capabilities": {"vram_gb": vram_gb, "quantizations": quantizations}}
        headers = {"DPoP": self.machine.proof(url)}
        self.token = must(send(url, "POST", "/api/runners/register", registration, headers), 200)["token"]

    def call(self, path, body):
        return send(self.url, "POST", path, body, {"Authorization": f"Bearer {self.token}"})

    def claim(self):
        return must(self.call("/api/queue/claim", {}), 200)

    def heartbeat(self, job, done):
        body = {"claim_id": job["claim_id"], "progress": {"cells_done": done, "cells_total": 8}}
        must(self.call(f"/api/queue/{job['run_id']}/heartbeat", body), 200)

    def fail(self, job):
        body = {"claim_id": job["claim_id"], "failure": {"code": "oom", "detail": "out of memory"}}
        must(self.call(f"/api/queue/{job['run_id']}/release", body), 200)

    def submit(self, job):
        result = json.loads(json.dumps(RESULT["result"]).replace(RESULT["result"]["run_id"], job["run_id"]))
        digest = hashlib.sha256(json.dumps(result, sort_keys=True, separators=(",", ":")).encode())
        signature = base64.b64encode(self.machine.key.sign(digest.digest())).decode()
        sig = {**RESULT["sig"], "sha256": digest.hexdigest(), "signature": signature}
        body = {"claim_id": job["claim_id"], "envelope": {"result": result, "sig": sig}}
        must(self.call(f"/api/queue/{job['run_id']}/submit", body), 201)


def look(browser, url, state, shown, offline=False):
    """Opens the page in every look; `shown` is what it must say."""
    for name, (width, height, scheme) in LOOKS.items():
        browser.look(width, height, scheme)
        browser.open(url, "document.body.dataset.state === 'shown'")
        if offline:
            browser.offline(True)
            browser.evaluate("refresh()")
            browser.offline(False)
        text = browser.evaluate("document.body.innerText")
        missing = [part for part in shown if part not in text]
        wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        browser.picture(FOLDER / f"{state}-{name}.png")
        complaints = [text for text in browser.complaints() if not (offline and "ERR_INTERNET_DISCONNECTED" in text)]
        if missing or wide > 0 or complaints:
            sys.exit(f"check-page: {state}, {name}: missing {missing}, {wide} px too wide, console {complaints}\n{text}")
        print(f"ok: {state}, {name}", flush=True)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with Chromium() as browser:
        with stack() as url:
            look(browser, url, "empty", ["Nothing waits.", "No job is in work.", "No result yet.", "0 alive."])
            runners = [Runner(url, f"bench-{number}", 24, ["q4_k_m", "q8_0"]) for number in range(4)]
            enqueue(url, 12)
            enqueue(url, 5, quantization="q8_0")
            for runner in runners[:2]:
                runner.submit(runner.claim())
            for done, runner in enumerate(runners):
                runner.heartbeat(runner.claim(), 2 * done + 1)
            # The overview is served again for five seconds: a new stack would be the other way to see it change.
            browser.evaluate("new Promise((done) => setTimeout(done, 5500))")
            look(browser, url, "busy", ["6 GB, q4_k_m", "12 GB, q8_0", "7 of 8", "qwen3_5_9b_q4", "4 alive."])
            enqueue(url, 3, billions=150.0)
            enqueue(url, 2, labels={"gpu": "AMD"})
            for _ in range(5):
                runners[0].fail(runners[0].claim())
            browser.evaluate("new Promise((done) => setTimeout(done, 5500))")
            look(browser, url, "problem", ["5 jobs wait for a runner that was not seen this week", "6 GB, q4_k_m, gpu: AMD", "none",
                                           "1 runner gets no jobs for a while"])
            look(browser, url, "stale", ["The queue could not be read", "7 of 8"], offline=True)
    print(f"ok: the pictures are in {FOLDER}")


if __name__ == "__main__":
    main()
