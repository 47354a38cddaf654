//! `idjag-proxy`: a sidecar that gives an AI agent's outbound calls an identity.
//!
//! The agent speaks plain HTTP to localhost and holds no credential. The proxy holds the pod's SPIFFE identity, turns it into an
//! assertion, exchanges that at the authorization server, caches the access token, and puts it on the request over (m)TLS.
//!
//! # Ports
//!
//! | where | who connects | what is there |
//! |---|---|---|
//! | `127.0.0.1:17080`, `[::1]:17080` | the agent | forward proxy, base URLs, virtual hosts, CONNECT; HTTP/1.1 and h2c |
//! | `[::]:17090` | kubelet, Prometheus | `/metrics`, `/livez`, `/readyz`, `/startupz` |
//! | `/run/idjag-proxy/admin.sock` | an operator | status, log level; mode 0600, because the agent shares the network and not this file |
//! | off, unless `listen.jwks` | authorization servers | the keys that sign assertions |
//!
//! # One request
//!
//! ```text
//! accept -> proxy::downstream (request guard, hyper) -> proxy::outbound
//!   target       one authority, read once: policy, TLS and Host derive from it
//!   route        policy: pure
//!   credential   the only await before sending; on a hit it is ready at once
//!   strip, place what is spoofable goes, what is ours comes, in this order
//!   forward      the worker's own pool; after a 401 one other token, once
//!   answer       the body streamed, never collected
//! ```
//!
//! Errors leave by `?` to the one place that makes responses (`proxy::error`). `Outcome` is made before the first stage and
//! consumed by the last; dropping it records `aborted`.
//!
//! # Layers
//!
//! | layer | modules | knows nothing of |
//! |---|---|---|
//! | 5 composition | `cli` → [`app`] → [`config`] | - |
//! | 4 traffic | [`admin`] → [`proxy`] → [`policy`] | the file's format, the environment, the command line |
//! | 3 tokens | [`token`] → [`exchange`] → [`issuer`] | the agent's request |
//! | 2 credentials | [`tls`] → [`identity`] | routes, OAuth |
//! | 1 protocol | [`assertion`], [`jose`] | sockets, tasks, files: pure functions |
//! | 0 vocabulary | [`http_server`] → [`tasks`], [`telemetry`]; [`single_flight`] → [`clock`]; [`listen`], [`secret`] | any domain word |
//!
//! A module imports lower layers, and sideways along the arrows; `tests/it/layers.rs` holds it. `dev` (a feature) is the embedded
//! Workload API, authorization server and resource server of the demo and the tests; it imports layer 0 alone, because it must
//! not check our assertions with the code that made them. `kubernetes` (a feature) is `inject` and the `injector` webhook, which
//! put this proxy into pods; neither is in the sidecar's image. It, too, imports layer 0 alone.
//!
//! # Threads
//!
//! The data plane is N worker threads, each with its own runtime, listeners (`SO_REUSEPORT`) and upstream connections, so that a
//! request lives and dies on one core. The control plane (identity, tokens, admin, reload) is one other runtime. What crosses is
//! immutable snapshots.
//!
//! # Invariants, as absences
//!
//! - No request goes out unauthenticated because something was slow, missing or broken.
//! - No token is sent to an origin that its route does not name, follows a redirect, or is shown to the agent.
//! - No expired or refused token is used; no refused one comes back by a mint that began before.
//! - No module below layer 5 reads the environment, or a file that it was not given.
//! - Nothing buffers a body, but for the bounded replay of a route that asks for it.
//! - No secret type can be printed or serialised.
//! - No task exists that [`app`] cannot name, but for those of a worker's connections, which end with their worker.
pub mod admin;
pub mod app;
pub mod assertion;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod exchange;
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
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod token;
