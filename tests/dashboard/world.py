"""Everything that runs: the demo, sidecars and injectors of ours, and agents that call."""

import base64
import http.client
import json
import re
import shutil
import signal
import ssl
import subprocess
import threading
from pathlib import Path

from dashboard.peers import ApiServer, TokenEndpoint, Upstream
from dashboard.svid import Issuer
from harness.parts import WITHOUT_PROXIES, Part, Run, fetch, free_ports, wait_until

# Seconds. Short, so that a run of a minute and a half has renewals.
TOKEN_LIFETIME = 40
SVID_LIFETIME = 60


class Sidecar:
    """An `idjag-proxy run` process."""

    def __init__(self, namespace: str, pod: str, config: Path):
        self.namespace, self.pod, self.config = namespace, pod, config
        self.port, self.metrics = free_ports(2)
        self.part: Part | None = None

    def argv(self, proxy: Path, directory: Path, *flags: str) -> list:
        addresses = ["--listen-outbound", f"127.0.0.1:{self.port}", "--listen-metrics", f"127.0.0.1:{self.metrics}"]
        return [proxy, "run", self.config, *addresses, "--admin", directory / f"{self.pod}.admin", *flags]

    def ready(self) -> bool:
        return fetch(f"http://127.0.0.1:{self.metrics}/readyz")[0] == 200


class World:
    def __init__(self, run: Run, proxy: Path, injector: Path):
        self.run, self.proxy, self.injector = run, proxy, injector
        self.sso, self.upstream, self.ledger = TokenEndpoint(run, TOKEN_LIFETIME), Upstream(run), Upstream(run)
        self.stop = threading.Event()
        self.callers: list[threading.Thread] = []
        self.demo = self._start_demo()
        self.issuer = Issuer(run.directory / "svid", "spiffe://demo.example/research-bot")
        self.issuer.renew(SVID_LIFETIME)
        (run.directory / "search-key").write_text("static")
        calendar = self._calendar()
        self.calendar = [
            Sidecar("calendar-agents", f"calendar-bot-{number}", self.config(f"calendar-{number}", calendar))
            for number in (1, 2)
        ]
        self.research = Sidecar("research-agents", "research-bot-1", self.config("research", self._research()))
        self.stranded = Sidecar("research-agents", "research-bot-2", self.config("stranded", self._stranded()))
        self.loud = Sidecar("batch-agents", "batch-bot-1", self.config("loud", self._loud()))
        self.sidecars = [*self.calendar, self.research, self.stranded, self.loud]
        self.injectors: list[Injector] = []

    @property
    def _nobody(self) -> Path:
        return self.run.directory / "nobody.sock"

    def start_all(self) -> str | None:
        """Starts all sidecars but the stranded one, and the injectors.

        Returns the reason why there are no injectors, if there are none.
        """
        for sidecar in [*self.calendar, self.research]:
            self.start_and_wait(sidecar)
        self.start_unread(self.loud)
        return self.start_injectors()

    def start(self, sidecar: Sidecar):
        sidecar.part = self.run.start(sidecar.pod, sidecar.argv(self.proxy, self.run.directory))

    def start_and_wait(self, sidecar: Sidecar):
        self.start(sidecar)
        wait_until(f"{sidecar.pod} to be ready", sidecar.ready, 30, sidecar.part)

    def start_unread(self, sidecar: Sidecar):
        """Starts a sidecar whose log is a pipe that nothing reads."""
        log = self.run.logs / f"{sidecar.pod}.err"
        process = subprocess.Popen(
            [str(word) for word in sidecar.argv(self.proxy, self.run.directory, "--log-level", "debug")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=WITHOUT_PROXIES,
            start_new_session=True,
        )
        sidecar.part = Part(sidecar.pod, process, log)
        self.run.closers.callback(sidecar.part.stop, signal.SIGKILL)
        wait_until(f"{sidecar.pod} to be ready", sidecar.ready, 30, sidecar.part)

    def start_injectors(self) -> str | None:
        """Starts a healthy injector and a failing one, or returns the reason why it cannot."""
        if subprocess.run([self.injector, "injector", "--help"], capture_output=True).returncode != 0:
            return f"{self.injector} lacks `injector`: it was built without the feature `kubernetes`"
        for number, (namespace, flags) in enumerate(
            [("idjag-proxy", []), ("idjag-staging", ["--certificate-lifetime", "1m"])]
        ):
            self.injectors.append(Injector(self.run, self.injector, namespace, f"idjag-proxy-injector-{number}", flags))
        for injector in self.injectors:
            wait_until(f"{injector.pod} to be ready", injector.ready, 60, injector.part)
        return None

    def config(self, name: str, text: str) -> Path:
        path = self.run.directory / f"{name}.yaml"
        path.write_text(text)
        return path

    def rewrite(self, sidecar: Sidecar, change):
        """Replaces the configuration by a new file, as an editor or the kubelet would."""
        new = sidecar.config.with_suffix(".new")
        new.write_text(change(sidecar.config.read_text()))
        new.replace(sidecar.config)

    def attest_stranded(self):
        """Makes the Workload API of the stranded sidecar answer."""
        self._nobody.symlink_to(self.directory / "calendar-bot.sock")

    def call(
        self,
        sidecar: Sidecar,
        path: str,
        every: float,
        headers: dict | None = None,
        until: threading.Event | None = None,
    ):
        """Starts an agent that calls repeatedly, until the end or `until`."""
        self._thread(_caller(sidecar.port, path, headers or {}), every, until or self.stop)

    def review(self, injector: "Injector", pod: dict, every: float):
        """Starts an API server that sends the same review repeatedly."""
        self._thread(lambda: injector.review(pod), every, self.stop)

    def user(self, name: str) -> dict:
        return {"x-user-token": (self.directory / f"{name}.jwt").read_text()}

    def close(self):
        self.stop.set()
        for thread in self.callers:
            thread.join(10)

    def _thread(self, once, every: float, until: threading.Event):
        def work():
            while not self.stop.is_set() and not until.is_set():
                once()
                until.wait(every)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.callers.append(thread)

    def _start_demo(self) -> Part:
        part = self.run.start("demo", [self.proxy, "demo"])

        def up():
            return re.search(r"cat (/\S+)/calendar-bot\.yaml", part.log.read_text())

        self.directory = Path(wait_until("the demo", up, 60, part)[1])
        # A demo that is killed does not remove its directory.
        self.run.closers.callback(shutil.rmtree, self.directory, ignore_errors=True)
        return part

    def _calendar(self) -> str:
        """The demo's calendar-bot with two more authorization servers and seven more routes.

        The upstream of `orders` does not exist.
        """
        text = (self.directory / "calendar-bot.yaml").read_text()
        servers, url = f"  sso: {self._sso('calendar-bot')}\n  archive: {self._sso('retired-bot')}\n", self.upstream.url
        token = "{ flow: { client_credentials: { server: sso } } }"
        archive = "{ flow: { client_credentials: { server: archive } } }"
        inbox = "{ flow: { client_credentials: { server: sso } }, scopes: [inbox:read] }"
        credentials = {
            "reports": f"token: {token}",
            "inbox": f"token: {inbox}",
            "archive": f"token: {archive}",
            "search": "legacy_secret: { file: search-key, header: x-api-key }",
            "telemetry": "token: none",
        }
        routes = "".join(_route(name, credential, url) for name, credential in credentials.items())
        (closed,) = free_ports(1)
        for name, other in {"ledger": self.ledger.url, "orders": f"http://127.0.0.1:{closed}"}.items():
            routes += _route(name, "token: none", other)
        return text.replace("authorization_servers:\n", f"authorization_servers:\n{servers}") + routes

    def _research(self) -> str:
        identity = "identity: { files: { certificate: svid/svid.pem, key: svid/svid.key, bundle: svid/bundle.pem } }"
        return f"{identity}\n{self._papers('research-bot')}"

    def _stranded(self) -> str:
        return f"identity: {{ workload_api: {{ socket: unix://{self._nobody} }} }}\n{self._papers('stranded-bot')}"

    def _loud(self) -> str:
        return f"routes:\n{_route('ticks', 'token: none', self.upstream.url)}workers: 1\n"

    def _papers(self, client: str) -> str:
        """Authorization server and four routes with a token each."""
        token = "token: {{ flow: {{ self_issued: {{ server: sso, grant: jwt_bearer }} }}, scopes: [papers:{}] }}"
        routes = "".join(_route(f"papers-{number}", token.format(number), self.upstream.url) for number in range(4))
        return f"authorization_servers:\n  sso: {self._sso(client)}\nroutes:\n{routes}workers: 1\n"

    def _sso(self, client: str) -> str:
        url = self.sso.url
        return f"{{ issuer: {url}, client_id: {client}, client_auth: none, endpoints: {{ token: {url}/token }} }}"


class Injector:
    """An `idjag-proxy injector` process with an API server of its own."""

    def __init__(self, run: Run, proxy: Path, namespace: str, pod: str, flags: list[str]):
        self.namespace, self.pod = namespace, pod
        self.port, self.metrics = free_ports(2)
        self.api = ApiServer(run, namespace, "idjag-proxy-injector")
        kubeconfig = run.directory / f"{pod}.kubeconfig"
        cluster = {"name": "here", "cluster": {"server": self.api.url}}
        context = {"name": "here", "context": {"cluster": "here", "user": "here", "namespace": namespace}}
        user = {"name": "here", "user": {}}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "contexts": [context],
            "users": [user],
            "current-context": "here",
        }
        kubeconfig.write_text(json.dumps(document))
        addresses = ["--listen", f"127.0.0.1:{self.port}", "--metrics", f"127.0.0.1:{self.metrics}"]
        argv = [proxy, "injector", "--namespace", namespace, *addresses, *flags]
        self.part = run.start(pod, argv, env={"KUBECONFIG": str(kubeconfig)})

    def ready(self) -> bool:
        return fetch(f"http://127.0.0.1:{self.metrics}/readyz")[0] == 200

    def review(self, pod: dict) -> dict:
        """Returns the injector's answer.

        The certificate must be valid for the Service's name by the bundle that the injector
        published.
        """
        request = {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "calendar-agents",
        }
        resource = {"resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | resource}
        configuration = next(one for path, one in self.api.objects.items() if "mutatingwebhookconfigurations" in path)
        bundle = base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"]).decode()
        context = ssl.create_default_context(cadata=bundle)
        connection = _Named("127.0.0.1", self.port, f"idjag-proxy-injector.{self.namespace}.svc", context)
        try:
            connection.request("POST", "/mutate", json.dumps(review), {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())
        except OSError:
            # The scenario kills the injectors.
            return {}
        finally:
            connection.close()


class _Named(http.client.HTTPSConnection):
    """A connection whose peer must present a certificate for this name."""

    def __init__(self, host: str, port: int, name: str, context: ssl.SSLContext):
        super().__init__(host, port, timeout=5, context=context)
        self.name = name

    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.name)


def _route(name: str, credential: str, url: str) -> str:
    """Returns the route of NAME.internal."""
    return f"  - {{ name: {name}, match: {{ host: {name}.internal }}, {credential}, upstream: {{ url: {url} }} }}\n"


def _caller(port: int, path: str, headers: dict):
    """Returns a function that calls once, on a connection that is kept between calls.

    With `?leave` it disconnects before the answer.
    """
    state = {"connection": None}

    def once():
        connection = state["connection"] or http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        state["connection"] = connection
        try:
            connection.request("GET", path, headers=headers)
            if path.endswith("?leave"):
                raise ConnectionAbortedError
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
            state["connection"] = None

    return once
