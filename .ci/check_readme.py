"""Runs every command of the README's runner's day by hand and of its admin's day on the local stack, as a reader would
type them. (`bakeoff-runner` and the sandbox have tests of their own: shared/runner/tests.)

A reader is at two keyboards: the order here is the one the text tells. Each command must succeed: curl is replaced
by one that fails on an error of HTTP.
"""

import base64
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from local_api import stack

FOLDER = pathlib.Path("target/check-readme")
CURL = """#!/bin/sh
exec /usr/bin/env PATH="$REAL_PATH" curl --fail-with-body "$@"
"""


def commands(heading):
    """The commands below the heading in their order: code blocks, and tables whose right column is a command."""
    text = pathlib.Path("README.md").read_text(encoding="utf-8").split(f"\n{heading}\n")[1].split("\n## ")[0]
    found = []
    for block, row in re.findall(r"```sh\n(.*?)```|^\| [^|]* \| `(admin .*?)` \|$", text, re.S | re.M):
        found.append(block or row + "\n")
    return found


def shell(script, url):
    """Runs commands in a shell that remembers variables and functions of the shells before."""
    state = FOLDER / "state.sh"
    script = script.replace("http://127.0.0.1:9000", url)
    whole = f"set -euo pipefail\n[ ! -f state.sh ] || . ./state.sh\n{script}\n" \
            "{ declare -f; declare -p API RUN PUBLIC_KEY TOKEN CLAIM KEY_ID 2> /dev/null; } > state.sh || true\n"
    environment = {**os.environ, "REAL_PATH": os.environ["PATH"],
                   "PATH": f"{(FOLDER / 'bin').resolve()}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", whole], cwd=FOLDER, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"README: this failed ({done.returncode}):\n{script}\n{done.stdout}\n{done.stderr}")
    print(f"ok: {script.strip().splitlines()[-1][:100]}", flush=True)
    return state


def write_result():
    """What the harness would write: the sample result, for this run, signed with this key."""
    event = json.loads(pathlib.Path("events/submit.json").read_text(encoding="utf-8"))
    envelope = json.loads(event["body"])["envelope"]
    result = envelope["result"]
    result["run_id"] = json.loads((FOLDER / "job.json").read_text(encoding="utf-8"))["run_id"]
    canonical = json.dumps(result, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(canonical)
    key = load_pem_private_key((FOLDER / "runner.pem").read_bytes(), None)
    signature = base64.b64encode(key.sign(digest.digest())).decode()
    envelope["sig"] |= {"sha256": digest.hexdigest(), "signature": signature, "runner_id": "bench-01"}
    (FOLDER / "result.json").write_text(json.dumps(envelope), encoding="utf-8")


def main():
    subprocess.run(["rm", "-rf", FOLDER], check=True)
    (FOLDER / "bin").mkdir(parents=True)
    curl = FOLDER / "bin/curl"
    curl.write_text(CURL, encoding="utf-8")
    curl.chmod(0o755)
    runner = [block for block in commands("### The same by hand") if not block.startswith("cargo ")]
    admin = commands("## An admin's day")
    key, register, claim, heartbeat, submit = runner
    done = next(number for number, command in enumerate(admin) if "/files/" in command) - 1
    with stack() as url:
        shell(key, url)
        for command in admin[:done]:
            shell(command, url)
        for command in (register, claim, heartbeat):
            shell(command, url)
        write_result()
        shell(submit, url)
        for command in admin[done:]:
            shell(command, url)
    sent = (FOLDER / "result.json").read_text(encoding="utf-8")
    if (FOLDER / "envelope.json").read_text(encoding="utf-8") != sent:
        sys.exit("README: the signed file is not what was submitted, byte for byte")
    print(f"ok: {len(runner) + len(admin)} commands of the README ran")


if __name__ == "__main__":
    main()
