//! The integration tests: one binary, real protocols over real sockets.
mod dependencies;
mod layers;
mod readme;

/// Tests that need the servers of the feature `dev`. One group carries the condition for all of
/// them; their files stay in this directory.
#[cfg(feature = "dev")]
#[path = ""]
mod dev {
    mod abuse;
    mod addressing;
    mod agent;
    mod binary;
    mod bursts;
    mod connect;
    mod demo;
    mod downloads;
    mod egress_proxy;
    mod exchange;
    mod floods;
    mod frames;
    mod framing;
    mod grpc;
    mod handshakes;
    mod hops;
    mod identity;
    #[cfg(feature = "kubernetes")]
    mod kubernetes;
    mod leaks;
    mod lines;
    mod log;
    mod operations;
    mod overload;
    mod passing;
    mod paths;
    mod placement;
    mod pools;
    mod probes;
    mod process;
    #[cfg(feature = "kubernetes")]
    mod public_names;
    mod published;
    mod refusals;
    mod reloads;
    mod request_ids;
    mod retries;
    mod revoked;
    mod route_limits;
    mod secrets;
    mod sessions;
    mod streams;
    mod tokens;
    mod turnover;
    mod unix_sockets;
    mod unprocessed;
    mod uploads;
    mod upstreams;
    mod watched;
    mod way_back;
    mod world;
}
