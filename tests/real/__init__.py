"""The proxy against real parts: SPIRE, Keycloak, Envoy, the MCP conformance suite and Authlib."""
