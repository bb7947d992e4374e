"""Holds the running API against its description (see `check-api`)."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.request

from local_api import Machine, admin, stack

SAMPLE_RUN = json.loads(json.loads(pathlib.Path("events/runs-enqueue.json").read_text(encoding="utf-8"))["body"])
FOLDER = pathlib.Path("target/check-api")
REQUIREMENTS = {"vram_gb": 24, "quantizations": ["q4_k_m", "q8_0"]}


def expect(condition, what, found):
    if not condition:
        sys.exit(f"check-api: {what}: {found}")
    print(f"ok: {what}", flush=True)


def read_description(url):
    with urllib.request.urlopen(f"{url}/api/openapi.json") as response:
        text = response.read()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    path = FOLDER / "openapi.json"
    path.write_bytes(text)
    subprocess.run(["openapi-spec-validator", path], check=True)
    print("ok: the description is valid OpenAPI", flush=True)
    return path


def generate_client(description):
    """Makes a client with a public generator, which leaves out what it cannot read: nothing may be missing."""
    made = subprocess.run(
        ["openapi-python-client", "generate", "--path", description, "--output-path", FOLDER / "client", "--meta", "none"],
        check=True, capture_output=True, text=True)
    told = made.stdout + made.stderr
    expect("Endpoint will not be generated" not in told and "has resulted in the removal" not in told,
           "a client is generated with every route", told)
    sys.path.insert(0, str(FOLDER))


def work_through_client(url, machine):
    """Registers, claims and reports progress, all through the generated client. Returns token and claim."""
    from client import AuthenticatedClient, Client
    from client.api.runners import claim, heartbeat, register
    from client.models import Capabilities, ClaimRequest, HeartbeatRequest, Registration

    registration = Registration(
        public_key=machine.public_key, capabilities=Capabilities.from_dict(REQUIREMENTS), runner_id="generated")
    anyone = Client(base_url=url, headers={"DPoP": machine.proof(url)})
    registered = register.sync_detailed(client=anyone, body=registration)
    expect(registered.status_code == 200, "the generated client registers", registered.content)
    token = registered.parsed.token
    runner = AuthenticatedClient(base_url=url, token=token)
    claimed = claim.sync_detailed(client=runner, body=ClaimRequest())
    expect(claimed.status_code == 200 and str(claimed.parsed.run_id) == SAMPLE_RUN["run_id"],
           "the generated client claims", claimed.content)
    beat = heartbeat.sync_detailed(
        claimed.parsed.run_id, client=runner, body=HeartbeatRequest(claim_id=claimed.parsed.claim_id))
    expect(beat.status_code == 200 and beat.parsed.directive == "continue",
           "the generated client sends a heartbeat", beat.content)
    return token, str(claimed.parsed.claim_id)


def fuzz(url, description, token, claim_id, other):
    """Lets schemathesis send what the description allows, and what it does not."""
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": ".ci",
                   "HYPOTHESIS_STORAGE_DIRECTORY": str(FOLDER / "hypothesis"),
                   "BAKEOFF_API": url, "BAKEOFF_TOKEN": token, "BAKEOFF_RUN": SAMPLE_RUN["run_id"],
                   "BAKEOFF_CLAIM": claim_id,
                   "BAKEOFF_OTHER_KEY": other.key.private_bytes_raw().hex()}
    # Runners first: an admin revokes their keys, because schemathesis uses ids that it has seen.
    for operations in (["--include-tag", "runners"], ["--exclude-tag", "runners"]):
        subprocess.run(
            ["schemathesis", "--config-file", ".ci/schemathesis.toml", "run", description, "--url", url, *operations],
            check=True, env=environment)
    print("ok: no answer is undocumented", flush=True)


def main():
    with stack() as url:
        description = read_description(url)
        machine, other = Machine(), Machine()
        for key in (machine, other):
            status, reply = admin(url, "POST", "/api/admin/keys", {"public_key": key.public_key, "label": "check-api"})
            expect(status == 201, "the key is allowed", reply)
        status, reply = admin(url, "POST", "/api/admin/runs", SAMPLE_RUN)
        expect(status == 201, "the run is enqueued", reply)
        generate_client(description)
        token, claim_id = work_through_client(url, machine)
        fuzz(url, description, token, claim_id, other)


if __name__ == "__main__":
    main()
