"""Manifests of agents and the configuration of their sidecars, with `$name` for each value."""

# The configuration of a namespace's sidecars. `$issuer` is Keycloak's realm.
CONFIGURATION = """
authorization_servers:
  sso: { issuer: $issuer, client_auth: spiffe_jwt, tls: { ca_file: sso-ca.pem } }
tokens:
  reports: { flow: { client_credentials: { server: sso } }, scopes: [$scope], eager: true }
routes:
  - name: reports
    match: { host: reports.example.com }
    token: reports
    upstream:
      url: https://reports.upstream.svc.cluster.local:8443
      tls: { server: { spiffe_ids: [spiffe://example.org/ns/upstream/sa/reports] }, client_certificate: svid }
"""

NAMESPACE = """
    apiVersion: v1
    kind: Namespace
    metadata: { name: $name, labels: { $labels } }
    """

ACCOUNT = """
    apiVersion: v1
    kind: ServiceAccount
    metadata: { name: $name, namespace: $namespace }
    """

CONFIG_MAP = """
    apiVersion: v1
    kind: ConfigMap
    metadata: { name: idjag-proxy, namespace: $namespace }
    data: { proxy.yaml: $configuration, sso-ca.pem: $ca }
    """

# An agent in a shell: curl uses the variable `http_proxy`, which the annotation sets.
CURL = """
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: curl, namespace: agents }
    spec:
      selector: { matchLabels: { app: curl } }
      template:
        metadata: { labels: { app: curl }, annotations: { idjag-proxy.io/http-proxy: "true" } }
        spec:
          serviceAccountName: calendar
          containers:
            - name: agent
              image: idjag-agents:1
              command: [sh, -c]
              args:
                - |
                  trap exit TERM
                  while :; do
                    curl -sS -o /dev/null -w '%{http_code}\\n' http://reports.example.com/curl
                    sleep 0.5 & wait
                  done
    """

# An agent in Python with four concurrent calls. After SIGTERM it goes on for `$linger` seconds.
PYTHON = """
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: python, namespace: agents }
    spec:
      selector: { matchLabels: { app: python } }
      template:
        metadata: { labels: { app: python }, annotations: { idjag-proxy.io/http-proxy: "true" } }
        spec:
          serviceAccountName: calendar
          containers:
            - name: agent
              image: idjag-agents:1
              command: [python3, -u, /usr/local/bin/agent.py, http://reports.example.com, "4", "$linger"]
              readinessProbe: { httpGet: { path: /, port: 8000 }, periodSeconds: 1 }
    """

# An agent that calls once, by the base URL, and has no variable set.
JOB = """
    apiVersion: batch/v1
    kind: Job
    metadata: { name: once, namespace: agents }
    spec:
      backoffLimit: 0
      template:
        spec:
          serviceAccountName: calendar
          restartPolicy: Never
          containers:
            - name: agent
              image: idjag-agents:1
              command: [curl, -fsS, "http://127.0.0.1:17080/reports.example.com/job"]
    """

# An init container, which Kubernetes starts after the sidecar, makes the first call.
INITIAL = """
    apiVersion: v1
    kind: Pod
    metadata: { name: initial, namespace: agents }
    spec:
      serviceAccountName: calendar
      restartPolicy: Never
      initContainers:
        - name: prepare
          image: idjag-agents:1
          command: [curl, -fsS, "http://127.0.0.1:17080/reports.example.com/initial"]
      containers:
        - name: agent
          image: idjag-agents:1
          command: ["true"]
    """

# An agent with its own service account.
LATE = """
    apiVersion: v1
    kind: Pod
    metadata: { name: late, namespace: agents, labels: { app: late } }
    spec:
      serviceAccountName: late
      restartPolicy: Never
      containers:
        - name: agent
          image: idjag-agents:1
          command: [sh, -c, "curl -fsS http://127.0.0.1:17080/reports.example.com/late && exec sleep infinity"]
    """

# A service that only accepts a static key, which only the sidecar has.
KEYED = """
routes:
  - name: search
    match: { host: search.example.com }
    legacy_secret: { file: ../secrets/search-api-key, header: x-api-key }
    upstream: { url: "$url", tls: { server: { ca_file: sso-ca.pem } } }
"""

# What the Pod Security level Restricted requires of a container.
RESTRICTED = (
    "securityContext: { runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false, "
    "capabilities: { drop: [ALL] }, seccompProfile: { type: RuntimeDefault } }"
)

# A minimal pod; `$metadata`, `$settings` and `$container` are more fields of its metadata, of its
# spec, and of its container.
PLAIN = """
    apiVersion: v1
    kind: Pod
    metadata: { name: $name, namespace: $namespace, $metadata }
    spec:
      $settings
      containers: [{ name: agent, image: "idjag-agents:1", command: [sleep, infinity], $container }]
    """
