"""The cost of a request in comparison with other proxies."""
