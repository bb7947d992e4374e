"""How schemathesis signs its requests: as a runner, or as an admin where the path says so."""

import os
from urllib.parse import urlsplit

import requests
import schemathesis

from local_api import sign


class Credentials(requests.auth.AuthBase):
    def __call__(self, request):
        if urlsplit(request.url).path.startswith("/api/admin/"):
            body = request.body or b""
            headers = sign(request.method, request.url, {}, body.encode() if isinstance(body, str) else body)
            request.headers.update({name: headers[name] for name in ("Authorization", "X-Amz-Date")})
        else:
            request.headers["Authorization"] = f"Bearer {os.environ['BAKEOFF_TOKEN']}"
        return request


schemathesis.auth.set_from_requests(Credentials())
