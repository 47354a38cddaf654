"""The proxies' peers in addition to the demo's servers, which cannot be made to fail."""

import json
import time
import urllib.parse

from harness.parts import Run
from harness.web import Handler, Server


class TokenEndpoint(Server):
    """A minimal authorization server whose tokens live for `lifetime` seconds.

    It is unavailable to clients in `failing`, and does not know `retired-bot`.
    """

    def __init__(self, run: Run, lifetime: int):
        self.lifetime, self.failing, self.count = lifetime, set(), 0
        super().__init__(run, _TokenHandler)


class _TokenHandler(Handler):
    def do_POST(self):
        form = urllib.parse.parse_qs(self.body().decode())
        self.server.count += 1
        client = form.get("client_id", [""])[0]
        if client in self.server.failing:
            self.reply(503, {"error": "temporarily_unavailable"})
        elif client == "retired-bot":
            self.reply(401, {"error": "invalid_client"})
        else:
            token = f"token-{self.server.count}"
            self.reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.server.lifetime})


class Upstream(Server):
    """An API with the paths /ok, /missing, /broken, /slow and /picky.

    /picky refuses every tenth token as if it had been revoked. While it is `failing`, every second
    answer of /ok breaks off.
    """

    def __init__(self, run: Run):
        self.picked, self.answered, self.failing = 0, 0, False
        super().__init__(run, _UpstreamHandler)


class _UpstreamHandler(Handler):
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path.rsplit("/", 1)[-1]
        if path == "missing":
            self.reply(404, {"error": "no such thing"})
        elif path == "broken":
            self.reply(500, {"error": "out of order"})
        elif path == "slow":
            time.sleep(0.08)
            self.reply(200, {"took": "its time"})
        elif path == "picky" and self.picked():
            self.reply(401, {"error": "invalid_token"}, {"www-authenticate": 'Bearer error="invalid_token"'})
        elif self.server.failing and self.every_second():
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            self.wfile.write(b"half an answer")
            self.close_connection = True
        else:
            self.reply(200, {"events": [{"id": number, "title": "weekly review"} for number in range(9)]})

    def every_second(self) -> bool:
        self.server.answered += 1
        return self.server.answered % 2 == 0

    def picked(self) -> bool:
        self.server.picked += 1
        return self.server.picked % 10 == 0


class ApiServer(Server):
    """The part of a Kubernetes API server that the injector uses: a few objects to read and
    write.
    """

    def __init__(self, run: Run, namespace: str, name: str):
        entries = ("namespace", "pod", "workloads", "labelled-workloads")
        webhooks = [{"name": f"{entry}.idjag-proxy.io", "clientConfig": {}} for entry in entries]
        own = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
        configuration = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
        agents = "/api/v1/namespaces/calendar-agents/configmaps/idjag-proxy"
        self.objects = {
            own: {"kind": "Secret", "apiVersion": "v1"},
            lease: {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1"},
            configuration: {"kind": "MutatingWebhookConfiguration", "webhooks": webhooks},
            agents: {"kind": "ConfigMap", "apiVersion": "v1", "data": {"proxy.yaml": "routes: []"}},
        }
        for path, one in self.objects.items():
            one["metadata"] = {"name": path.rsplit("/", 1)[-1], "resourceVersion": "1"}
        super().__init__(run, _ApiHandler)


class _ApiHandler(Handler):
    def do_GET(self):
        found = self.server.objects.get(urllib.parse.urlsplit(self.path).path)
        self.reply(200, found) if found else self.status(404, "NotFound")

    def do_PUT(self):
        path, written = urllib.parse.urlsplit(self.path).path, json.loads(self.body())
        was = self.server.objects.get(path)
        if was is None:
            self.status(404, "NotFound")
        elif written["metadata"].get("resourceVersion") != was["metadata"]["resourceVersion"]:
            self.status(409, "Conflict")
        else:
            written["metadata"]["resourceVersion"] = str(int(was["metadata"]["resourceVersion"]) + 1)
            self.server.objects[path] = written
            self.reply(200, written)

    def do_POST(self):
        self.reply(201, json.loads(self.body()))

    def status(self, code: int, reason: str):
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        self.reply(code, status | {"code": code, "reason": reason, "message": reason})
