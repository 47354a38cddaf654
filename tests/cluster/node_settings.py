"""The settings of the node's components: addresses, certificates, configuration and commands."""

import json
from pathlib import Path

from cluster.node_programs import Programs, command

NAME = "node-1"
BRIDGE = "idjag0"
# The address of this machine for pods.
HOST = "10.244.0.1"
PODS = "10.244.0.0/24"
SERVICES, FIRST_SERVICE = "10.0.0.0/24", "10.0.0.1"
# These are not the usual ports, which another cluster on this machine may use.
API_PORT, ETCD_PORT, ETCD_PEER_PORT = 16443, 12379, 12380
PROXY_HEALTH_PORT, PROXY_METRICS_PORT = 12256, 12249
API = f"https://127.0.0.1:{API_PORT}"
ISSUER = "https://kubernetes.default.svc.cluster.local"


class Settings:
    """The settings of the node in `directory`."""

    def __init__(self, programs: Programs, directory: Path):
        self.programs, self.directory = programs, directory
        self.pki = directory / "pki"

    def make_certificates(self):
        self.pki.mkdir()
        authority = ["-keyout", "ca.key", "-out", "ca.pem", "-days", "7", "-subj", "/CN=test-ca"]
        self._openssl("req", "-x509", *_NEW_KEY, *authority)
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "service-accounts.key")
        self._openssl("pkey", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")
        names = [f"IP:{one}" for one in ("127.0.0.1", HOST, FIRST_SERVICE)]
        names += [f"DNS:{one}" for one in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")]
        self.certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName={','.join(names)}")
        for name, subject in {
            "admin": "/O=system:masters/CN=admin",
            "controller-manager": "/CN=system:kube-controller-manager",
            "scheduler": "/CN=system:kube-scheduler",
            "proxy": "/CN=system:kube-proxy",
            "kubelet": f"/O=system:nodes/CN=system:node:{NAME}",
            "coredns": "/O=system:masters/CN=coredns",
        }.items():
            self.certificate(name, subject)
            self._write_kubeconfig(name)

    def certificate(self, name: str, subject: str, extensions: str = ""):
        """Makes `pki/<name>.pem` and `pki/<name>.key`, signed by the node's authority
        `pki/ca.pem`.
        """
        self._openssl("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (self.pki / f"{name}.ext").write_text(extensions)
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "7", "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)

    def _openssl(self, *words: str):
        command(["openssl", *words], cwd=self.pki)

    def _write_kubeconfig(self, name: str):
        user = {"client-certificate": f"{self.pki}/{name}.pem", "client-key": f"{self.pki}/{name}.key"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": {"server": API, "certificate-authority": f"{self.pki}/ca.pem"}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": name}}],
            "current-context": "node",
        }
        self.kubeconfig(name).write_text(json.dumps(config))

    def kubeconfig(self, name: str) -> Path:
        return self.directory / f"{name}.kubeconfig"

    def write_configurations(self):
        containerd = _CONTAINERD.format(directory=self.directory, cni=self.programs.cni)
        (self.directory / "containerd.toml").write_text(containerd)
        (self.directory / "cni" / "10-pods.conflist").write_text(json.dumps(self._cni()))
        (self.directory / "kubelet.yaml").write_text(json.dumps(self._kubelet()))
        (self.directory / "proxy.yaml").write_text(json.dumps(self._proxy()))
        (self.directory / "Corefile").write_text(_COREFILE.format(host=HOST, kubeconfig=self.kubeconfig("coredns")))

    def _cni(self) -> dict:
        addresses = {"type": "host-local", "dataDir": f"{self.directory}/addresses", "ranges": [[{"subnet": PODS}]]}
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipMasq": False}
        return {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                bridge | {"ipam": addresses | {"routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _kubelet(self) -> dict:
        certificates = {"clientCAFile": f"{self.pki}/ca.pem"}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.directory}/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "address": HOST,
            "healthzPort": 0,
            # kube-proxy's rules suffice, and are removed with it.
            "makeIPTablesUtilChains": False,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": certificates},
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [HOST],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            # On a full disk the kubelet would delete unused images, which cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "podLogsDir": f"{self.directory}/pod-logs",
            # A changed ConfigMap may reach a pod as late as this. The default is a minute.
            "syncFrequency": "5s",
        }

    def _proxy(self) -> dict:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.kubeconfig("proxy"))},
            "mode": "iptables",
            # With both pods on one bridge the answer must return through this machine, which has
            # the service's address.
            "iptables": {"masqueradeAll": True},
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH_PORT}",
            "metricsBindAddress": f"127.0.0.1:{PROXY_METRICS_PORT}",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def command(self, name: str) -> list[str]:
        bin, pki, kubeconfig = self.programs.kubernetes, self.pki, lambda: f"--kubeconfig={self.kubeconfig(name)}"
        etcd = f"http://127.0.0.1:{ETCD_PORT}"
        match name:
            case "containerd":
                return ["containerd", "-c", f"{self.directory}/containerd.toml"]
            case "etcd":
                peers = f"http://127.0.0.1:{ETCD_PEER_PORT}"
                addresses = ["--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peers]
                first = ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
                data = f"{self.directory}/etcd"
                return ["etcd", "--data-dir", data, *addresses, *first, "--log-level", "warn"]
            case "apiserver":
                return [
                    f"{bin}/kube-apiserver",
                    f"--etcd-servers={etcd}",
                    "--bind-address=0.0.0.0",
                    f"--advertise-address={HOST}",
                    f"--secure-port={API_PORT}",
                    f"--tls-cert-file={pki}/apiserver.pem",
                    f"--tls-private-key-file={pki}/apiserver.key",
                    f"--client-ca-file={pki}/ca.pem",
                    f"--service-account-issuer={ISSUER}",
                    f"--service-account-signing-key-file={pki}/service-accounts.key",
                    f"--service-account-key-file={pki}/service-accounts.pub",
                    f"--service-cluster-ip-range={SERVICES}",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    "--allow-privileged=true",
                    f"--kubelet-client-certificate={pki}/admin.pem",
                    f"--kubelet-client-key={pki}/admin.key",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            case "controller-manager":
                return [
                    f"{bin}/kube-controller-manager",
                    kubeconfig(),
                    f"--service-account-private-key-file={pki}/service-accounts.key",
                    f"--root-ca-file={pki}/ca.pem",
                    f"--cluster-signing-cert-file={pki}/ca.pem",
                    f"--cluster-signing-key-file={pki}/ca.key",
                    "--use-service-account-credentials",
                    "--leader-elect=false",
                    "--secure-port=0",
                ]
            case "scheduler":
                return [f"{bin}/kube-scheduler", kubeconfig(), "--leader-elect=false", "--secure-port=0"]
            case "kubelet":
                files = [f"--config={self.directory}/kubelet.yaml", f"--root-dir={self.directory}/kubelet"]
                files.append(f"--cert-dir={self.directory}/kubelet/pki")
                return [f"{bin}/kubelet", kubeconfig(), *files, f"--hostname-override={NAME}", f"--node-ip={HOST}"]
            case "proxy":
                return [f"{bin}/kube-proxy", f"--config={self.directory}/proxy.yaml"]
            case "coredns":
                return [f"{bin}/coredns", "-conf", f"{self.directory}/Corefile"]
        raise ValueError(name)


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

# Without `restrict_oom_score_adj` containers would need CAP_SYS_RESOURCE to start.
_CONTAINERD = """
version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{directory}/cni"
"""

_COREFILE = """
cluster.local:53 {{
  bind {host}
  kubernetes cluster.local {{
    kubeconfig {kubeconfig}
  }}
}}
.:53 {{
  bind {host}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""
