//! The gRPC service: every call reads the published state and follows its changes.
use super::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use super::published::{Calls, Issued, Mode, Published};
use crate::sync::lock;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

/// The state that the calls share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) published: watch::Receiver<Arc<Published>>,
    pub(super) calls: Arc<Mutex<Calls>>,
}

type StreamResult<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

impl Service {
    fn follow<T: Send + 'static>(&self, select: fn(&Published) -> T) -> StreamResult<T> {
        let follower = Follower { published: self.published.clone(), epoch: self.epoch(), state: Follow::First };
        let stream = stream::unfold(follower, move |follower| follower.next(select));
        Ok(Response::new(stream.boxed()))
    }

    fn epoch(&self) -> u64 {
        self.published.borrow().epoch
    }

    fn count(&self, count: fn(&mut Calls)) {
        count(&mut lock(&self.calls));
    }
}

struct Follower {
    published: watch::Receiver<Arc<Published>>,
    epoch: u64,
    state: Follow,
}

#[derive(PartialEq)]
enum Follow {
    First,
    Changes,
    Ended,
}

impl Follower {
    /// The next message: the current state without delay, then each new one, always complete
    /// (SPIFFE Workload API, "Stream Responses").
    async fn next<T>(mut self, select: fn(&Published) -> T) -> Option<(Result<T, Status>, Self)> {
        loop {
            match self.state {
                Follow::Ended => return None,
                Follow::First => self.state = Follow::Changes,
                Follow::Changes => self.published.changed().await.ok()?,
            }
            let published = Arc::clone(&self.published.borrow_and_update());
            if published.epoch != self.epoch {
                self.state = Follow::Ended;
                return Some((Err(Status::unavailable("the agent closed the stream")), self));
            }
            match published.mode {
                Mode::Serve => return Some((Ok(select(&published)), self)),
                Mode::Hang => {}
                Mode::Refuse(code) => {
                    self.state = Follow::Ended;
                    return Some((Err(refusal(code)), self));
                }
            }
        }
    }
}

fn refusal(code: Code) -> Status {
    match code {
        // This is SPIRE's message, which people search for.
        Code::PermissionDenied => Status::permission_denied("no identity issued"),
        code => Status::new(code, "injected fault"),
    }
}

/// Checks that the call carries `workload.spiffe.io: true`, which a browser or an SSRF attack
/// cannot send (SPIFFE Workload API §6).
fn check_metadata<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("workload.spiffe.io") {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> StreamResult<X509svidResponse> {
        self.count(|calls| calls.x509_svid += 1);
        check_metadata(&request)?;
        self.follow(|published| published.x509_svids.clone())
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> StreamResult<X509BundlesResponse> {
        self.count(|calls| calls.x509_bundles += 1);
        check_metadata(&request)?;
        self.follow(|published| published.x509_bundles.clone())
    }

    async fn fetch_jwt_bundles(&self, request: Request<JwtBundlesRequest>) -> StreamResult<JwtBundlesResponse> {
        self.count(|calls| calls.jwt_bundles += 1);
        check_metadata(&request)?;
        self.follow(|published| published.jwt_bundles.clone())
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        self.count(|calls| calls.jwt_svid += 1);
        check_metadata(&request)?;
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let published = self.wait_until_answering().await?;
        let is_requested = |id: &&Issued| request.spiffe_id.is_empty() || request.spiffe_id == id.spiffe_id;
        let mut svids = Vec::new();
        for identity in published.identities.iter().filter(is_requested) {
            let svid = published
                .jwt
                .jwt_svid(&identity.spiffe_id, &request.audience, published.jwt_svid_ttl)
                .map_err(|error| Status::internal(error.to_string()))?;
            svids.push(Jwtsvid { spiffe_id: identity.spiffe_id.clone(), svid, hint: identity.hint.clone() });
        }
        if svids.is_empty() {
            return Err(refusal(Code::PermissionDenied));
        }
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_metadata(&request)?;
        Err(Status::unimplemented("this Workload API leaves validation to the caller, which has the bundles"))
    }
}

impl Service {
    /// The published state once calls no longer hang. It is an error if calls are refused or the
    /// streams were closed.
    async fn wait_until_answering(&self) -> Result<Arc<Published>, Status> {
        let mut published = self.published.clone();
        let epoch = self.epoch();
        let ready = published.wait_for(|published| published.mode != Mode::Hang || published.epoch != epoch).await;
        let ready = Arc::clone(&*ready.map_err(|_| Status::unavailable("the agent is gone"))?);
        match (ready.mode, ready.jwt_refusal) {
            _ if ready.epoch != epoch => Err(Status::unavailable("the agent closed the connection")),
            (Mode::Refuse(code), _) | (_, Some(code)) => Err(refusal(code)),
            _ => Ok(ready),
        }
    }
}
