"""Checks a stack deployed on MiniStack at the stages of its life, as .ci/smoke-deploy leads it through them.

    smoke_cycle.py cycle                        a job: register, enqueue, claim, heartbeat, submit
    smoke_cycle.py updated KEYS STATUS          after a deploy that succeeded or rolled back
    smoke_cycle.py failed REASON                after a deploy that rolled back
    smoke_cycle.py password                     prints the password of the functions' database role
    smoke_cycle.py rotated                      rotates the signing keys and that password
    smoke_cycle.py served                       a request that reads the database
    smoke_cycle.py deleted                      after the deletion

Everything goes through the stand-in's API gateway, with its IAM on. The result is a real one, from
events/submit.json, signed anew for a run and a runner of this test. Where to find the stand-in, and keys with
every right, come from the environment (AWS_ENDPOINT_URL and the AWS credentials).
"""

import base64
import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STACK = "bakeoff-smoke"
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]


def expect(condition, what, found):
    if not condition:
        sys.exit(f"smoke test: {what}: {found}")
    print(f"ok: {what}")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers = status, headers
        try:
            self.json = json.loads(body) if body else None
        except ValueError:
            self.json = body.decode(errors="replace")

    def __str__(self):
        return f"{self.status} {json.dumps(self.json)[:600]}"


class Gateway:
    """The deployed API, as an outside caller reaches it."""

    def __init__(self, url):
        # MiniStack serves an API under its id. The API calls itself by the domain name in its events.
        host = urllib.parse.urlsplit(url).hostname
        self.public_url = f"https://{host}"
        identifier = host.split(".")[0]
        self.base = f"{ENDPOINT}/_aws/execute-api/{identifier}/$default"

    def call(self, method, path, body=None, headers=None, credentials=None):
        data = compact(body) if body is not None else b""
        headers = {"content-type": "application/json", **(headers or {})}
        if credentials:
            request = AWSRequest(method=method, url=self.base + path, data=data, headers=headers)
            SigV4Auth(credentials, "execute-api", "us-east-1").add_auth(request)
            headers = dict(request.headers.items())
        request = urllib.request.Request(self.base + path, data=data or None, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())


def rotate(function, secret):
    """The four steps of a rotation, which MiniStack does not take by itself."""
    token = str(uuid.uuid4())
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        reply = boto3.client("lambda").invoke(
            FunctionName=f"{STACK}-{function}",
            Payload=compact({"Step": step, "SecretId": secret, "ClientRequestToken": token}))
        expect("FunctionError" not in reply, f"rotation by {function}: {step}", reply["Payload"].read()[:300])


def admin_credentials(name, policy):
    iam = boto3.client("iam")
    iam.create_user(UserName=name)
    if policy:
        iam.put_user_policy(UserName=name, PolicyName="api", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def check_admin_routes(gateway):
    """Only who may, and can prove it, gets in. Returns the credentials that do."""
    statement = {"Effect": "Allow", "Action": "execute-api:Invoke",
                 "Resource": "arn:aws:execute-api:*:*:*/*/api/admin/*"}
    allowed = admin_credentials("smoke-admin", {"Version": "2012-10-17", "Statement": [statement]})
    refused = {
        "unsigned": None,
        "signed with a wrong key": Credentials(allowed.access_key, allowed.secret_key[::-1]),
        "signed by one without permission": admin_credentials("smoke-nobody", None),
    }
    for case, credentials in refused.items():
        reply = gateway.call("GET", "/api/admin/keys", credentials=credentials)
        expect(reply.status == 403, f"{case} admin request refused", reply)
    reply = gateway.call("GET", "/api/admin/keys", credentials=allowed)
    expect(reply.status == 200 and reply.json["keys"] == [], "admin request", reply)
    return allowed


def run_specification(result):
    """What an admin enqueues so that `result` is its answer."""
    config = result["config"]
    model = {
        "schema_version": 1,
        "name": "smoke",
        "creator": {"name": "smoke", "display_name": "Smoke", "homepage": "https://example.org/smoke"},
        "model_hash": "sha256:" + hashlib.sha256(b"smoke").hexdigest(),
        "parameter_count_b": 9.0,
        "active_parameter_count_b": 9.0,
        "architecture": "Dense",
        "file_format": "GGUF",
        "quantization": "q4_k_m",
        "sources": [{"source_type": "huggingface", "url": "https://huggingface.co/example/smoke"}],
    }
    return {
        "run_id": result["run_id"],
        "publisher_id": "smoke",
        "models": [{"id": entry["id"], "descriptor": model} for entry in config["models"]],
        "prompts": [
            {"id": entry["id"], "file_path": f"prompts/{entry['id']}.md", "git_commit_hash": "ad48ac3"}
            for entry in config["prompts"]
        ],
        "tasks": result["tasks"],
        "config": config,
    }


def signed_result(run_id, key):
    """The sample result for another run, in the harness's envelope."""
    with open("events/submit.json", encoding="utf-8") as file:
        text = json.load(file)["body"]
    sample = json.loads(text)["envelope"]["result"]
    result = json.loads(json.dumps(sample).replace(sample["run_id"], run_id))
    digest = hashlib.sha256(json.dumps(result, sort_keys=True, separators=(",", ":")).encode()).digest()
    sig = {
        "sha256": digest.hex(),
        "signature": base64.b64encode(key.sign(digest)).decode(),
        "runner_id": "smoke",
        "signed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return {"result": result, "sig": sig}


def proof(key, public, url):
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public)}
    head = base64url(compact({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk}))
    claims = {"htm": "POST", "htu": url, "iat": int(time.time()), "jti": str(uuid.uuid4())}
    claims = base64url(compact(claims))
    return f"{head}.{claims}.{base64url(key.sign(f'{head}.{claims}'.encode()))}"


def the_stack():
    """Its status, and its outputs by name."""
    stack = boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    return stack["StackStatus"], {entry["OutputKey"]: entry["OutputValue"] for entry in stack["Outputs"]}


def expect_keys(gateway, count):
    reply = gateway.call("GET", "/api/jwks.json")
    expect(reply.status == 200 and len(reply.json["keys"]) == count, f"{count} public keys", reply)


def updated(keys, expected):
    """After a deploy: the stack's status is the expected one, and the API answers."""
    status, outputs = the_stack()
    expect(status == expected, f"the stack is {expected}", status)
    expect_keys(Gateway(outputs["ApiUrl"]), keys)


def failed(reason):
    """After a deploy that rolled back: the stack's events name the reason."""
    events = boto3.client("cloudformation").describe_stack_events(StackName=STACK)["StackEvents"]
    reasons = [event.get("ResourceStatusReason", "") for event in events]
    expect(any(reason in found for found in reasons), f"the deploy failed with {reason!r}", reasons[:20])


def secret_of(resource):
    """The ARN and the value of the secret that the template has under this name."""
    client = boto3.client("secretsmanager")
    (arn,) = (secret["ARN"] for secret in client.list_secrets()["SecretList"] if resource in secret["Name"])
    # Names the stage: MiniStack otherwise returns the version that was made last.
    return arn, json.loads(client.get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")["SecretString"])


def password():
    """In the form of a PgBouncer connection string."""
    _, credentials = secret_of("FunctionsDatabaseSecret")
    print(" password='" + credentials["password"].replace("'", "''") + "'")


def rotated():
    """A second rotation: both keys are published, as seen by functions that have read the first set."""
    _, outputs = the_stack()
    rotate("rotate", outputs["SigningKeysSecretArn"])
    _, value = secret_of("VerifyingKeys")
    expect(len(value["keys"]) == 2 and not any("d" in key for key in value["keys"]), "both keys published", value)
    arn, before = secret_of("FunctionsDatabaseSecret")
    rotate("migrate", arn)
    _, after = secret_of("FunctionsDatabaseSecret")
    expect(after["username"] == before["username"] and after["password"] != before["password"],
           "the functions' database password is another", sorted(after))


def served():
    """The database lets the functions in."""
    _, outputs = the_stack()
    reply = Gateway(outputs["ApiUrl"]).call("GET", "/api/queue")
    expect(reply.status == 200, "the queue's overview", reply)


def deleted():
    """After the deletion: only what a receipt is verified with remains."""
    stacks = boto3.client("cloudformation").list_stacks()["StackSummaries"]
    left = {stack["StackStatus"] for stack in stacks if stack["StackName"] == STACK}
    expect(left <= {"DELETE_COMPLETE"}, "the stack is gone", left)
    secrets = {secret["Name"] for secret in boto3.client("secretsmanager").list_secrets()["SecretList"]}
    expect(any("VerifyingKeys" in name for name in secrets), "the public keys remain", secrets)
    functions = [function["FunctionName"] for function in boto3.client("lambda").list_functions()["Functions"]]
    expect(not any(name.startswith(STACK) for name in functions), "the functions are gone", functions)


def cycle():
    """One job, from a runner's key to its result."""
    _, outputs = the_stack()
    gateway = Gateway(outputs["ApiUrl"])
    rotate("rotate", outputs["SigningKeysSecretArn"])
    expect_keys(gateway, 1)

    admin = check_admin_routes(gateway)
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    encoded = base64.b64encode(public).decode()
    entry = {"public_key": encoded, "label": "smoke"}
    reply = gateway.call("POST", "/api/admin/keys", entry, credentials=admin)
    expect(reply.status == 201, "key allowed", reply)
    run_id = str(uuid.uuid4())
    envelope = signed_result(run_id, key)
    reply = gateway.call("POST", "/api/admin/runs", run_specification(envelope["result"]), credentials=admin)
    expect(reply.status == 201, "run enqueued", reply)

    register = "/api/runners/register"
    reply = gateway.call("POST", register, {
        "public_key": encoded, "hostname": "smoke-01",
        "capabilities": {"vram_gb": 24, "quantizations": ["q4_k_m"]},
    }, {"DPoP": proof(key, public, gateway.public_url + register)})
    expect(reply.status == 200, "registered", reply)
    bearer = {"authorization": f"Bearer {reply.json['token']}"}
    reply = gateway.call("POST", "/api/queue/claim", {}, bearer)
    expect(reply.status == 200 and reply.json["run_id"] == run_id, "claimed", reply)
    claim_id = reply.json["claim_id"]
    reply = gateway.call("POST", f"/api/queue/{run_id}/heartbeat", {"claim_id": claim_id}, bearer)
    expect(reply.status == 200 and reply.json["directive"] == "continue", "heartbeat", reply)

    submit = f"/api/queue/{run_id}/submit"
    forged = {**envelope, "result": {**envelope["result"], "timestamp": "20000101-000000"}}
    reply = gateway.call("POST", submit, {"claim_id": claim_id, "envelope": forged}, bearer)
    expect(reply.status == 422 and reply.json["code"] == "signature_invalid", "forged result refused", reply)
    reply = gateway.call("POST", submit, {"claim_id": claim_id, "envelope": envelope}, bearer)
    expect(reply.status == 201 and reply.json["status"] == "COMPLETE", "submitted", reply)
    reply = gateway.call("GET", f"/api/queue/{run_id}", headers=bearer)
    expect(reply.status == 200, "status", reply)


if __name__ == "__main__":
    if sys.argv[1] == "updated":
        updated(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "failed":
        failed(sys.argv[2])
    else:
        stages = {"cycle": cycle, "password": password, "rotated": rotated, "served": served, "deleted": deleted}
        stages[sys.argv[1]]()
