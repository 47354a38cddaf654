"""The chart, the injector and the proxy on a real Kubernetes node."""
