# Two images of one program, each a static binary in `scratch`: no shell, no package manager, and a user
# that is only a number.
#
#   docker build --target sidecar -t idjag-proxy:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker build --target injector -t idjag-proxy-injector:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#   buildah bud --build-arg BINARIES=given --target sidecar DIR
#
# The first two compile here; without the arguments their labels say 0.0.0 and unknown. The third packs
# DIR/<architecture>/idjag-proxy, as `tests/image/build` does.
#
# The binary contains the web's certificate authorities. A bundle that is mounted at
# /etc/ssl/certs/ca-certificates.crt takes precedence over them.

# compile: the binaries that the stage of this name makes; given: binaries from the build context.
ARG BINARIES=compile

FROM docker.io/library/rust:1.95.0-bookworm AS compile
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
RUN rustup target add "$(uname -m)-unknown-linux-musl" && cargo install --locked cargo-auditable@0.7.7
WORKDIR /src
COPY . .
RUN tests/image/compile dist /out

FROM scratch AS given
ARG TARGETARCH
COPY ${TARGETARCH}/ /out/

FROM ${BINARIES} AS binaries

FROM scratch AS sidecar
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="idjag-proxy" \
      org.opencontainers.image.description="A sidecar that gives an AI agent's outbound calls an identity" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binaries --chmod=755 /out/idjag-proxy /usr/local/bin/idjag-proxy
USER 17080:17080
EXPOSE 17090
ENTRYPOINT ["/usr/local/bin/idjag-proxy"]
CMD ["run", "/etc/idjag-proxy/config/proxy.yaml"]

FROM scratch AS injector
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="idjag-proxy-injector" \
      org.opencontainers.image.description="The admission webhook that puts idjag-proxy into pods" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binaries --chmod=755 /out/idjag-proxy-injector /usr/local/bin/idjag-proxy
USER 17080:17080
EXPOSE 8443 17090
ENTRYPOINT ["/usr/local/bin/idjag-proxy"]
CMD ["injector"]
