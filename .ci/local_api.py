"""The local stack as a client meets it: started and stopped, requests signed for admins and for runners."""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LOCAL = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "debug/bakeoff-local"
ADMIN = Credentials("local", "local-secret")


@contextlib.contextmanager
def stack():
    """Runs the local stack on a free port; yields its URL."""
    process = subprocess.Popen([LOCAL, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                yield line.split()[1]
                return
        raise SystemExit("the local stack ended before it was ready")
    finally:
        process.terminate()
        process.wait()


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(method, url, headers, body):
    """Returns the headers with a Signature Version 4 of an admin."""
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    SigV4Auth(ADMIN, "execute-api", "us-east-1").add_auth(request)
    return dict(request.headers.items())


def send(url, method, path, body=None, headers=()):
    """Sends a request; returns status and body."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **dict(headers)}
    request = urllib.request.Request(url + path, data=data or None, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or "null")
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def admin(url, method, path, body=None):
    """Sends a request as an admin; returns status and body."""
    data = b"" if body is None else json.dumps(body).encode()
    return send(url, method, path, body, sign(method, url + path, {"content-type": "application/json"}, data))


class Machine:
    """A runner's key (a new one, or of these bytes), and what it proves."""

    def __init__(self, private=None):
        self.key = Ed25519PrivateKey.from_private_bytes(private) if private else Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.public_key = base64.b64encode(self.public).decode()

    def proof(self, url):
        """A DPoP proof (RFC 9449) for the registration route."""
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(self.public)}
        header = {"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk}
        claims = {"htm": "POST", "htu": f"{url}/api/runners/register", "iat": int(time.time()),
                  "jti": str(uuid.uuid4())}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{base64url(self.key.sign(signed.encode()))}"
