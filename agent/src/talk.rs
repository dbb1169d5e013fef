//! Talking to the provisioner: four questions over pinned TLS, each with its time limit.

use muster_identity::http::{Client, RequestError};
use muster_identity::{Expect, Identity, IdentityError, client_config};
use muster_protocol::hello::{Answer, Hello};
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::Trust;
use muster_protocol::sync::{Claim, ClaimAnswer, Noted, Report, SyncReply, SyncRequest};
use muster_protocol::wire::{self, Undecodable, Versioned};
use std::net::SocketAddr;
use std::time::Duration;

/// Covers a provisioner that is busy answering a whole rack, on a machine as slow as an emulated one.
const LIMIT: Duration = Duration::from_secs(8);
const CONTENT: &str = "application/octet-stream";

#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    #[error("cannot set up TLS with this machine's key")]
    Identity(#[from] IdentityError),
    #[error("asking `{path}`")]
    Request { path: &'static str, source: RequestError },
    #[error("`{path}` was answered with {status}: {text}")]
    Status { path: &'static str, status: u16, text: String },
    #[error("the answer to `{path}` cannot be read")]
    Answer { path: &'static str, source: Undecodable },
}

/// One provisioner at one address; the connection is kept between questions.
pub struct Provisioner {
    client: Client,
}

impl Provisioner {
    /// Nothing is sent yet. Only a peer with this cluster's online key will be spoken to.
    pub fn new(at: SocketAddr, trust: &Trust, key: &SecretKey) -> Result<Self, TalkError> {
        let identity = Identity::agent(trust.cluster, key)?;
        let config = client_config(&identity, trust, Expect::Provisioner)?;
        Ok(Self { client: Client::new(at, config) })
    }

    pub fn at(&self) -> SocketAddr {
        self.client.peer()
    }

    /// "This is me, this is my disk": frozen for ever.
    pub async fn hello(&mut self, hello: &Hello) -> Result<Answer, TalkError> {
        self.ask("/agent/hello", hello).await
    }

    /// Takes an order.
    pub async fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, TalkError> {
        self.ask("/agent/v1/claim", claim).await
    }

    /// How a machine in the boot image is.
    pub async fn report(&mut self, report: &Report) -> Result<Noted, TalkError> {
        self.ask("/agent/v1/report", report).await
    }

    /// Everything periodic of an installed node.
    pub async fn sync(&mut self, request: &SyncRequest) -> Result<SyncReply, TalkError> {
        self.ask("/agent/v1/sync", request).await
    }

    async fn ask<Q: Versioned, A: Versioned>(
        &mut self,
        path: &'static str,
        question: &Q,
    ) -> Result<A, TalkError> {
        let answer = self.client.post(path, CONTENT, wire::encode(question), LIMIT).await;
        let answer = answer.map_err(|source| TalkError::Request { path, source })?;
        if answer.status != 200 {
            let text = String::from_utf8_lossy(&answer.body);
            let text = text.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(TalkError::Status { path, status: answer.status, text });
        }
        wire::decode(&answer.body).map_err(|source| TalkError::Answer { path, source })
    }
}
