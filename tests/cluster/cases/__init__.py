"""The cases of the cluster suite, one module per topic."""
