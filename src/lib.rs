//! `idjag-proxy` is a sidecar that gives the outbound calls of an AI agent an identity.
//!
//! The agent speaks plain HTTP to localhost and holds no credential. The proxy holds the pod's
//! SPIFFE identity, turns it into an assertion, exchanges the assertion for an access token at an
//! authorization server, caches the token, and sends each request with it over (m)TLS.
//!
//! # Ports
//!
//! | address | who connects | what it serves |
//! |---|---|---|
//! | `127.0.0.1:17080`, `[::1]:17080` | the agent | forward proxy, base URLs, virtual hosts, CONNECT; HTTP/1.1 and cleartext HTTP/2 |
//! | none, unless `listen.outbound` has a Unix socket | the agent, if the socket lists its uid | the same |
//! | `[::]:17090` | the kubelet, Prometheus | `/metrics`, `/livez`, `/readyz`, `/startupz` |
//! | `/run/idjag-proxy/admin.sock` | an operator | the status and the log level; mode 0600, because the agent shares the network but not this file |
//! | none, unless `listen.jwks` is set | authorization servers | the public halves of the keys that sign assertions |
//!
//! # One request
//!
//! ```text
//! accept -> request guard -> hyper -> proxy::outbound::handle
//!   destination  one authority, read once: policy, TLS and Host are derived from it
//!   route        policy; pure
//!   credential   the only await before sending; a cached token is ready at once
//!   headers      what the agent could forge is removed
//!   send         on the worker's own pool, with the credential put on for each attempt; after a
//!                401 once more, with another token
//!   response     the body is streamed, never collected
//! ```
//!
//! Errors leave by `?` to the one place that makes responses, `proxy::error`. A `Session` is
//! begun before the first stage and ends with the last byte of the answer, relay or tunnel. It
//! counts and logs exactly once who ended the request; if it is dropped unfinished, the agent did.
//!
//! # Layers
//!
//! | layer | modules | must not know |
//! |---|---|---|
//! | 5 composition | `cli` → [`app`] → [`config`] | - |
//! | 4 traffic | [`admin`] → [`proxy`] → [`policy`] | the format of the file, the environment, the command line |
//! | 3 tokens | [`token`] → [`exchange`] → [`issuer`] | the agent's request |
//! | 2 credentials | [`tls`] → [`identity`] | routes, OAuth |
//! | 1 protocol | [`assertion`], [`jose`] | sockets, tasks, files: nothing here does I/O |
//! | 0 foundation | [`clock`], [`egress_proxy`], [`host`], [`http_server`], [`listen`], [`secret`], [`single_flight`], [`sync`], [`tasks`], [`telemetry`] | any term of the domain |
//!
//! A module imports lower layers, and its own layer along the arrows; in layer 0,
//! `egress_proxy` imports `host` and `secret`, `single_flight` imports `clock` and `sync`, `http_server` imports `sync`, `tasks` and `telemetry`, and `telemetry` imports
//! `sync`. Two modules stand beside the layers, each a feature, and import layer 0 alone. `dev` is the Workload API, authorization
//! server and resource server of the demo and the tests, which must not check our assertions with
//! the code that made them. `kubernetes` is `inject` and the `injector` webhook, which put the
//! proxy into pods; it is not in the sidecar's image.
//!
//! Inside a folder, files do not import each other in cycles: what several of them need goes into a
//! lower file. Parameters are named values, not tuples. `tests/it/layers.rs` enforces all of this.
//!
//! # What a change touches
//!
//! | change | files | should stay untouched |
//! |---|---|---|
//! | a source of the identity | `identity/<new>.rs` and its arms in `identity/source.rs`; `config/file/workload.rs`, `config/build/identity.rs` | `app`, `proxy`, `token`, `exchange`, `tls` |
//! | a grant flow | its facts, its digest and its words in `exchange/grant.rs`; `exchange/request.rs`, and `exchange/response.rs` if the answer differs; `config/file/token.rs`, `config/build/tokens.rs` | `token`, `proxy`, `policy`, `identity` |
//! | a client authentication | its arms in `issuer/settings.rs`, `exchange/client_auth.rs`; `config/file/server.rs`, `config/build/servers.rs`; `issuer/http_client.rs` if it presents another certificate than the SVID | everything else |
//! | a token in another header | only the configuration file | all code |
//! | a token elsewhere (query, cookie) | `policy/placement.rs`, `policy/reserved.rs`, `policy/description.rs`; `proxy/upstream/credential.rs`, and `proxy/upstream/send.rs` if it is not in the header; `proxy/outbound/handle.rs`, which removes what the agent put there; `config/file/token.rs`, `config/build/tokens.rs` | `exchange`, `token` |
//! | a header field that is removed, or that can carry no credential | its row in `policy/fields.rs` | `proxy::headers` and `config`, which read the rows |
//! | a failure of a token request | its row in `exchange/error.rs` or `issuer/error.rs`, and the place that raises it | metrics, which read the rows |
//! | a refusal | its row in `proxy/error.rs`, and the place that raises it | metrics and the tests' tables, which read the rows |
//! | a metric | the `metrics.rs` of the module that owns the value, by [`telemetry::Registrar`], and the place that counts; `app/components.rs` as well for a module's first metric, for a gauge that is read at each scrape, and for the first series by server | `telemetry` |
//! | a listener of the control plane | the module that serves it, `app/listeners.rs`, its task in `app/run.rs`; `config/file/process.rs`, `config/build/process.rs`, `config/runtime.rs`; `app/components.rs` if it serves state that is shared, `kubernetes/inject/sidecar.rs` and `kubernetes/names.rs` if it is reached from outside the pod | `proxy`, `token`, `exchange` |
//! | a listener of the data plane | the same, and `proxy/worker.rs`, which gives every socket the one handler | `token`, `exchange` |
//! | a setting of the process | `config/file/process.rs`, `config/build/process.rs`, `config/runtime.rs`; the type of the module that uses it, and where `app` fills that in (`app/quota.rs`, `app/components.rs`) | other modules |
//! | a setting of a server | `config/file/server.rs`, `config/build/servers.rs`, `issuer/settings.rs`, the module that uses it; the digest in `exchange/grant.rs` asks whether the server can tell the difference | other modules |
//! | a property of a route in `check` | `config/file/route.rs`, `config/build/routes.rs`, `policy/route.rs`, its words in `policy/description.rs` | the commands that print it |
//! | a property of a route in `status` | the same; if it is neither part of the credential nor a danger, `admin/status.rs` and `cli/status.rs` as well | everything else |
//!
//! Every key of the configuration is also described in `config/reference.yaml`, which a test
//! compares with the code, and in the chart's `values.schema.json`, which `tests/chart/run --update`
//! generates. Names that programs outside depend on are in `tests/it/golden/public_names.txt`.
//!
//! # Threads
//!
//! The data plane has N worker threads, each with its own runtime, listening sockets
//! (`SO_REUSEPORT`) and upstream connections, so that a request stays on one core. The control
//! plane (identity, tokens, admin, reload) has one other runtime. Threads share
//! immutable snapshots, channels and atomics.
//!
//! # Invariants
//!
//! - No request is sent unauthenticated because something was slow, missing or broken.
//! - No token is sent to an origin that its route does not name, follows a redirect, or is shown to
//!   the agent.
//! - No expired or refused token is used. An exchange that began before the refusal cannot bring
//!   a refused token back.
//! - No module below layer 5 reads the environment or a file that it was not given, except for the
//!   machine's certificate authorities (`tls`) and the process's own figures in `/proc`
//!   (`telemetry`).
//! - Nothing buffers a body, except the bounded replay buffer of a route that asks for it.
//! - No secret type can be printed or serialised.
//! - Every task that lives as long as the process is named by [`app`]. The others are bounded, and
//!   end with the worker, the server or the client that started them: connections, look-ups, token
//!   exchanges.
pub mod admin;
pub mod app;
pub mod assertion;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod egress_proxy;
pub mod exchange;
pub mod host;
pub mod http_server;
pub mod identity;
pub mod issuer;
pub mod jose;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod listen;
pub mod policy;
pub mod proxy;
pub mod secret;
pub mod single_flight;
pub mod sync;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod token;
