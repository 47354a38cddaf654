//! An answer after which the agent's connection carries something else than HTTP.
use crate::proxy::agent_body::AgentBody;
use crate::proxy::session::Session;
use crate::proxy::upstream::Lease;
use http::Response;
use std::future::Future;
use std::pin::Pin;

type Carry = dyn FnOnce(Session, Option<Lease>) -> Pin<Box<dyn Future<Output = ()>>>;

/// The answer, and what is done with the connection afterwards, until the session ends. The type of
/// that future is erased: a tunnel serves requests and a request opens tunnels, so their futures
/// would contain each other.
pub(super) struct Switched {
    answer: Response<AgentBody>,
    /// The connection to the upstream, which the session names.
    lease: Option<Lease>,
    carry: Box<Carry>,
}

impl Switched {
    /// `carry` finishes the session.
    pub(super) fn new<F>(
        answer: Response<AgentBody>,
        lease: Option<Lease>,
        carry: impl FnOnce(Session, Option<Lease>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self { answer, lease, carry: Box::new(|session, lease| Box::pin(carry(session, lease))) }
    }

    /// Begins to carry the connection, and returns the answer to the agent.
    pub(super) fn begin(self, mut session: Session) -> Response<AgentBody> {
        // Such a connection is there to stay: only its idle timeout ends it.
        session.set_total(None);
        session.record_answer(self.answer.status(), self.lease.as_ref());
        tokio::task::spawn_local((self.carry)(session, self.lease));
        self.answer
    }
}
