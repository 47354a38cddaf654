"""The cases of the cluster suite, one module per letter of the case names, but for `registration`, which is part of b."""
