//! k3s's tokens: made by the init server's agent, kept as sealed boxes, opened only for a start of k3s.
//!
//! The provisioner relays boxes that it cannot open. A worker never keeps a box with the server token.

use crate::node::token::{Malformed, Token};
use crate::state::{Root, StateError};
use muster_protocol::ids::{ClusterId, Digest, Role};
use muster_protocol::keys::{Fingerprint, PublicKey, SecretKey};
use muster_protocol::roster::Roster;
use muster_protocol::sealed::{SealError, SealedBox, Secret};
use muster_protocol::signed::{By, Listener, Signed};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// k3s's own copies of the tokens, once it has run.
pub const K3S_TOKEN: &str = "/var/lib/rancher/k3s/server/token";
pub const K3S_AGENT_TOKEN: &str = "/var/lib/rancher/k3s/server/agent-token";
const SERVER_BOX: &str = "/var/lib/muster/tokens/server";
const AGENT_BOX: &str = "/var/lib/muster/tokens/agent";

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("no {} is here yet\nhint: a server of the cluster seals it to this node's key; the provisioner relays it", secret.word())]
    Missing { secret: Secret },
    #[error("a box is signed by no server of the roster")]
    UnknownSender,
    #[error("a worker takes no server token")]
    NotForWorkers,
    #[error("the box cannot be opened")]
    Seal(#[from] SealError),
    #[error("the token in the box is not one")]
    Malformed(#[from] Malformed),
    #[error("the token is for the cluster with CA {have}, granted was {want}")]
    OtherCa { have: Digest, want: Digest },
    #[error(transparent)]
    State(#[from] StateError),
}

/// Our own boxes on the disk, and the keys they are believed by.
pub struct Tokens<'a> {
    pub root: &'a Root,
    pub cluster: ClusterId,
    pub key: &'a SecretKey,
    /// Keys of the roster's servers.
    pub servers: &'a [PublicKey],
}

pub fn server_keys(roster: &Roster) -> Vec<PublicKey> {
    roster.nodes.iter().filter(|node| node.role == Role::Server).map(|node| node.key).collect()
}

impl Tokens<'_> {
    pub fn open(&self, secret: Secret) -> Result<Token, TokenError> {
        let path = path_of(secret).ok_or(TokenError::Missing { secret })?;
        let signed: Signed<SealedBox> = self.root.load(path)?.ok_or(TokenError::Missing { secret })?;
        let (_, token) = self.look_inside(&signed)?;
        Ok(token)
    }

    /// Keeps a relayed box after every check. Returns whether the token is new here.
    pub fn receive(&self, role: Role, signed: &Signed<SealedBox>) -> Result<bool, TokenError> {
        let (secret, token) = self.look_inside(signed)?;
        match (role, path_of(secret)) {
            (Role::Worker, _) if secret == Secret::ServerToken => return Err(TokenError::NotForWorkers),
            (_, None) => return Err(Malformed.into()),
            (Role::Server | Role::Worker, Some(_)) => {}
        }
        // Sealing is random, so boxes are compared by what is in them.
        if self.open(secret).is_ok_and(|kept| kept.text() == token.text()) {
            return Ok(false);
        }
        // Sealed anew by this node: whoever sealed it may leave the roster, and the token stays good.
        self.keep(secret, token.text(), &mut system_rng())?;
        Ok(true)
    }

    fn look_inside(&self, signed: &Signed<SealedBox>) -> Result<(Secret, Token), TokenError> {
        let own = self.key.public();
        for sender in self.servers.iter().chain([&own]) {
            let Ok(verified) = signed.verify(By::Key(self.cluster, sender), &Listener::default()) else {
                continue;
            };
            let sealed = verified.into_inner();
            if sealed.from != sender.fingerprint() {
                return Err(TokenError::UnknownSender);
            }
            let plain = sealed.open(self.cluster, self.key)?;
            let text = std::str::from_utf8(&plain).map_err(|_| Malformed)?;
            return Ok((sealed.secret, Token::parse(text)?));
        }
        Err(TokenError::UnknownSender)
    }

    /// For the init start: both tokens as bare passwords, made once and then the same at every further start. At the first,
    /// what another server's abandoned init left here does not count.
    pub fn make(&self, first: bool, rng: &mut impl CryptoRng) -> Result<(), TokenError> {
        for secret in [Secret::ServerToken, Secret::AgentToken] {
            match self.open(secret) {
                Ok(token) if !first || token.ca().is_none() => {}
                Err(other @ TokenError::State(_)) => return Err(other),
                Err(other) if !first && !matches!(other, TokenError::Missing { .. }) => return Err(other),
                Ok(_) | Err(_) => {
                    let mut bytes = Zeroizing::new([0; 32]);
                    rng.fill_bytes(&mut *bytes);
                    let mut text = Zeroizing::new(String::with_capacity(64));
                    for byte in bytes.iter() {
                        use std::fmt::Write;
                        // Writing to a String has no error path.
                        let _ok = write!(text, "{byte:02x}");
                    }
                    self.keep(secret, &text, rng)?;
                }
            }
        }
        Ok(())
    }

    /// As [`Self::complete`], with the CA's hash from the token that k3s wrote down after its init.
    pub fn complete_from_k3s(&self) -> Result<(), TokenError> {
        let server = self.open(Secret::ServerToken)?;
        let agent = self.open(Secret::AgentToken)?;
        if server.ca().is_some() && agent.ca().is_some() {
            return Ok(());
        }
        let bytes = self.root.read(K3S_TOKEN)?.ok_or(TokenError::Missing { secret: Secret::ServerToken })?;
        let bytes = Zeroizing::new(bytes);
        let written = Token::parse(std::str::from_utf8(&bytes).map_err(|_| Malformed)?)?;
        match written.ca() {
            Some(ca) if written.password() == server.password() => self.complete(ca, &mut system_rng()),
            Some(_) | None => Err(Malformed.into()),
        }
    }

    /// After init: the full forms with the CA's hash, as every later start and every other node has them.
    pub fn complete(&self, ca: Digest, rng: &mut impl CryptoRng) -> Result<(), TokenError> {
        for (secret, user) in [(Secret::ServerToken, "server"), (Secret::AgentToken, "node")] {
            let token = self.open(secret)?;
            match token.ca() {
                Some(have) if have == ca => {}
                Some(have) => return Err(TokenError::OtherCa { have, want: ca }),
                None => self.keep(secret, &token.full(ca, user), rng)?,
            }
        }
        Ok(())
    }

    fn keep(&self, secret: Secret, text: &str, rng: &mut impl CryptoRng) -> Result<(), TokenError> {
        let path = path_of(secret).ok_or(TokenError::Missing { secret })?;
        let sealed = self.seal(secret, text, &self.key.public(), rng)?;
        Ok(self.root.save(path, &sealed)?)
    }

    fn seal(
        &self,
        secret: Secret,
        text: &str,
        to: &PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Signed<SealedBox>, TokenError> {
        let from = self.key.public().fingerprint();
        let sealed = SealedBox::seal(self.cluster, secret, text.as_bytes(), from, to, rng)?;
        Ok(Signed::by_key(self.cluster, self.key, &sealed))
    }

    /// Boxes for these recipients of the roster: servers get both tokens, workers the agent token, recovery both.
    pub fn for_others(
        &self,
        roster: &Roster,
        wanted: &dyn Fn(Fingerprint) -> bool,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<Signed<SealedBox>>, TokenError> {
        let (server, agent) = (self.open(Secret::ServerToken)?, self.open(Secret::AgentToken)?);
        // Bare passwords are for the init start alone.
        if server.ca().is_none() || agent.ca().is_none() {
            return Ok(Vec::new());
        }
        let me = self.key.public().fingerprint();
        let mut boxes = Vec::new();
        let recovery = [(roster.recovery, Role::Server)];
        let nodes = roster.nodes.iter().map(|node| (node.key, node.role));
        for (to, role) in recovery.into_iter().chain(nodes) {
            let print = to.fingerprint();
            if print == me || !wanted(print) {
                continue;
            }
            if role == Role::Server {
                boxes.push(self.seal(Secret::ServerToken, server.text(), &to, rng)?);
            }
            boxes.push(self.seal(Secret::AgentToken, agent.text(), &to, rng)?);
        }
        Ok(boxes)
    }
}

/// A kubeconfig is for operators; no node keeps one in a box.
fn path_of(secret: Secret) -> Option<&'static str> {
    match secret {
        Secret::ServerToken => Some(SERVER_BOX),
        Secret::AgentToken => Some(AGENT_BOX),
        Secret::Kubeconfig => None,
    }
}

/// The system's randomness as `rand_core` wants it.
pub fn system_rng() -> impl CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, scratch};

    struct Node {
        root: crate::node::testing::Scratch,
        key: SecretKey,
        servers: Vec<PublicKey>,
    }

    impl Node {
        fn new(cluster: &Cluster, n: u8) -> Self {
            Self { root: scratch(), key: cluster.node(n), servers: cluster.servers() }
        }
        fn tokens(&self) -> Tokens<'_> {
            Tokens { root: &self.root, cluster: ClusterId([9; 16]), key: &self.key, servers: &self.servers }
        }
        fn all_bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            for name in ["server", "agent"] {
                bytes.extend(
                    self.root.read(&format!("/var/lib/muster/tokens/{name}")).unwrap().unwrap_or_default(),
                );
            }
            bytes
        }
    }

    #[test]
    fn tokens_are_made_once_and_lie_there_only_sealed() {
        let cluster = Cluster::new();
        let init = Node::new(&cluster, 1);
        let tokens = init.tokens();
        tokens.make(true, &mut system_rng()).unwrap();
        let first = tokens.open(Secret::ServerToken).unwrap();
        assert_eq!((first.ca(), first.text().len()), (None, 64));
        tokens.make(true, &mut system_rng()).unwrap();
        assert_eq!(tokens.open(Secret::ServerToken).unwrap().text(), first.text());
        assert_ne!(tokens.open(Secret::AgentToken).unwrap().text(), first.text());
        let on_disk = init.all_bytes();
        assert!(!on_disk.windows(16).any(|part| part == &first.text().as_bytes()[..16]));
    }

    #[test]
    fn servers_get_both_tokens_and_workers_the_agent_token_alone() {
        let cluster = Cluster::new();
        let init = Node::new(&cluster, 1);
        let ca = Digest([7; 32]);
        init.tokens().make(true, &mut system_rng()).unwrap();
        let early = init.tokens().for_others(&cluster.roster(), &|_| true, &mut system_rng()).unwrap();
        assert!(early.is_empty(), "no box before the CA is known");
        init.tokens().complete(ca, &mut system_rng()).unwrap();
        let boxes = init.tokens().for_others(&cluster.roster(), &|_| true, &mut system_rng()).unwrap();
        assert_eq!(boxes.len(), 2 + 2 * 2 + 2, "recovery, two servers, two workers");

        let (server, worker) = (Node::new(&cluster, 2), Node::new(&cluster, 4));
        for signed in &boxes {
            let _for_someone_else = server.tokens().receive(Role::Server, signed);
            let _for_someone_else = worker.tokens().receive(Role::Worker, signed);
        }
        let full = server.tokens().open(Secret::ServerToken).unwrap();
        assert_eq!(full.ca(), Some(ca));
        assert!(full.text().contains("::server:"));
        assert!(server.tokens().open(Secret::AgentToken).unwrap().text().contains("::node:"));
        assert!(worker.tokens().open(Secret::AgentToken).is_ok());
        assert!(matches!(worker.tokens().open(Secret::ServerToken), Err(TokenError::Missing { .. })));
    }

    #[test]
    fn a_worker_keeps_no_server_token_even_when_one_is_sealed_to_it() {
        let cluster = Cluster::new();
        let init = Node::new(&cluster, 1);
        let worker = Node::new(&cluster, 4);
        let sealed =
            init.tokens().seal(Secret::ServerToken, "x", &worker.key.public(), &mut system_rng()).unwrap();
        let refused = worker.tokens().receive(Role::Worker, &sealed);
        assert!(matches!(refused, Err(TokenError::NotForWorkers)), "{refused:?}");
        assert!(worker.all_bytes().is_empty());
    }

    #[test]
    fn a_box_by_anyone_but_a_server_of_the_roster_is_refused() {
        let cluster = Cluster::new();
        let (worker, other) = (Node::new(&cluster, 4), Node::new(&cluster, 5));
        let sealed =
            worker.tokens().seal(Secret::AgentToken, "x", &other.key.public(), &mut system_rng()).unwrap();
        let refused = other.tokens().receive(Role::Worker, &sealed);
        assert!(matches!(refused, Err(TokenError::UnknownSender)), "{refused:?}");
    }

    #[test]
    fn the_same_token_sealed_again_changes_nothing() {
        let cluster = Cluster::new();
        let (init, worker) = (Node::new(&cluster, 1), Node::new(&cluster, 4));
        let seal =
            || init.tokens().seal(Secret::AgentToken, "pw", &worker.key.public(), &mut system_rng()).unwrap();
        assert!(worker.tokens().receive(Role::Worker, &seal()).unwrap());
        assert!(!worker.tokens().receive(Role::Worker, &seal()).unwrap());
    }

    #[test]
    fn what_an_abandoned_init_left_does_not_count_at_the_first_start_of_the_next() {
        let cluster = Cluster::new();
        let (gone, next) = (Node::new(&cluster, 1), Node::new(&cluster, 2));
        let full = format!("K10{}::server:theirs", Digest([1; 32]));
        let sealed = gone.tokens().seal(Secret::ServerToken, &full, &next.key.public(), &mut system_rng());
        next.tokens().receive(Role::Server, &sealed.unwrap()).unwrap();
        next.tokens().make(false, &mut system_rng()).unwrap();
        assert_eq!(
            next.tokens().open(Secret::ServerToken).unwrap().text(),
            full,
            "a later start keeps what it has"
        );
        next.tokens().make(true, &mut system_rng()).unwrap();
        let own = next.tokens().open(Secret::ServerToken).unwrap();
        assert_eq!((own.ca(), own.text().len()), (None, 64));
    }

    #[test]
    fn a_token_stays_good_when_whoever_sealed_it_leaves_the_roster() {
        let cluster = Cluster::new();
        let (init, mut worker) = (Node::new(&cluster, 1), Node::new(&cluster, 4));
        let sealed =
            init.tokens().seal(Secret::AgentToken, "pw", &worker.key.public(), &mut system_rng()).unwrap();
        assert!(worker.tokens().receive(Role::Worker, &sealed).unwrap());
        worker.servers.retain(|key| *key != init.key.public());
        assert_eq!(worker.tokens().open(Secret::AgentToken).unwrap().text(), "pw");
    }

    #[test]
    fn a_completed_token_is_not_moved_to_another_ca() {
        let cluster = Cluster::new();
        let init = Node::new(&cluster, 1);
        init.tokens().make(true, &mut system_rng()).unwrap();
        assert!(init.tokens().complete_from_k3s().is_err(), "k3s has not run yet");
        let password = init.tokens().open(Secret::ServerToken).unwrap().text().to_owned();
        let other = format!("K10{}::server:other", Digest([1; 32]));
        init.root.write(K3S_TOKEN, other.as_bytes(), 0o600).unwrap();
        assert!(init.tokens().complete_from_k3s().is_err(), "another cluster's token");
        let written = format!("K10{}::server:{password}\n", Digest([1; 32]));
        init.root.write(K3S_TOKEN, written.as_bytes(), 0o600).unwrap();
        init.tokens().complete_from_k3s().unwrap();
        init.tokens().complete_from_k3s().unwrap();
        let refused = init.tokens().complete(Digest([2; 32]), &mut system_rng());
        assert!(matches!(refused, Err(TokenError::OtherCa { .. })), "{refused:?}");
    }
}
