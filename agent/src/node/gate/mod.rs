//! `muster-agent k3s-gate`: what runs before every start of k3s, as `ExecStartPre` without a leading `-`.
//!
//! Reads disk, record and grant, calls [`decide`], and only when that says yes makes the disk remember it and writes
//! config, tokens and node password. A refusal is exit code 1, so k3s does not run.

/// What k3s is not to see any more.
mod aside;
#[cfg(test)]
mod combinations;
/// k3s's config.yaml.
pub mod config;
/// The decision.
pub mod decide;
/// What a file beside config.yaml could undo.
mod dropin;
/// What the gate reads.
mod papers;
/// What is remembered and what is found.
pub mod record;
/// Why not.
pub mod refusal;

use crate::node::probe::Prober;
use crate::node::probe::ask::AskError;
use crate::node::token::{Malformed, Token, token_hash};
use crate::node::tokens::{K3S_AGENT_TOKEN, K3S_TOKEN, TokenError, system_rng};
use crate::state::{Root, StateError};
pub use papers::Papers;

use aside::move_aside;
use config::{AGENT_TOKEN, BadConfig, CONFIG, Datastore, TOKEN, TokenFiles, fall_back};
use decide::Way;
use muster_protocol::etcd::GateRecord;
use muster_protocol::etcd::Identity;
use muster_protocol::ids::{Digest, NodeName, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::sealed::Secret;
use muster_protocol::signed::Refused;
use record::Kept;
use refusal::Refusal;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the node service puts the grant that it got with its last sync.
pub const GRANT: &str = "/run/muster/grant";
const NODE_PASSWORD: &str = "/etc/rancher/node/password";

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("k3s may not start")]
    Refused(#[from] Refusal),
    #[error("the grant in {GRANT} is not believed")]
    BadGrant(#[source] Refused),
    #[error("k3s may not start without its token")]
    Token(#[from] TokenError),
    #[error("cannot write k3s's configuration")]
    Config(#[from] BadConfig),
    #[error("a server needs a static address\nhint: give {node} an `address` in cluster.toml")]
    NoAddress { node: NodeName },
    #[error(
        "none of the granted voters answers with the cluster's CA: {}\nhint: the grant stays unused; the next start asks again",
        tried.join("; ")
    )]
    NoVoter { tried: Vec<String> },
    #[error(
        "`{key}` in {} would decide past the gate\nhint: remove it there; roles, names and addresses come from cluster.toml",
        path.display()
    )]
    DropIn { path: PathBuf, key: &'static str },
    #[error("a join needs a full token with the CA's hash, this one is a bare password")]
    BareToken,
    #[error(
        "the clock says {now} (unix seconds), before this image was made ({epoch})\nhint: k3s's certificates would be made in the past; wait for NTP or the provisioner"
    )]
    Clock { now: u64, epoch: u64 },
    #[error("cannot ask the voters")]
    Ask(#[from] AskError),
}

/// The gate. `now` is in unix seconds.
pub async fn pass(
    root: &Root,
    papers: Papers,
    worker_address: Option<Ipv4Addr>,
    now: u64,
) -> Result<(), GateError> {
    let epoch = papers.trust.build_epoch;
    if now < epoch {
        return Err(GateError::Clock { now, epoch });
    }
    match papers.manifest.get().role {
        Role::Server => server(root, papers).await,
        Role::Worker => worker(root, &papers, worker_address),
    }
}

async fn server(root: &Root, papers: Papers) -> Result<(), GateError> {
    let allowed = papers.preview(root)?;
    let manifest = papers.manifest.get();
    let address = papers.address()?;
    let tokens = papers.tokens(root);

    // Everything that can fail comes before the disk is made to remember anything.
    let (datastore, server_token, agent_token) = match &allowed.way {
        Way::Init { .. } => {
            tokens.make(papers.kept.record == GateRecord::Fresh, &mut system_rng())?;
            (Datastore::Init, tokens.open(Secret::ServerToken)?, tokens.open(Secret::AgentToken)?)
        }
        Way::Join { identity, voters, .. } => {
            let token = tokens.open(Secret::ServerToken)?;
            let voter = first_fitting(root, identity, voters, &token).await?;
            (Datastore::Join(voter), token, tokens.open(Secret::AgentToken)?)
        }
        Way::Resume => {
            let server = fall_back(&manifest.k3s.servers, &manifest.node, &allowed.keep.peers);
            // A member starts whatever became of its boxes: k3s has its own copies.
            let own = |secret, copy| tokens.open(secret).or_else(|error| k3s_copy(root, copy).ok_or(error));
            let server_token = own(Secret::ServerToken, K3S_TOKEN)?;
            (Datastore::Resume(server), server_token, own(Secret::AgentToken, K3S_AGENT_TOKEN)?)
        }
    };
    let yaml = config::server(manifest, address, datastore, &TokenFiles::below(root))?;

    // Data first: were the record first, a cut between the two would start the old data under the new record.
    if let Way::Join { move_aside: true, .. } = allowed.way {
        move_aside(root, allowed.keep.fence)?;
    }
    if allowed.keep != papers.kept {
        allowed.keep.save(root)?;
    }
    root.write(TOKEN, server_token.text().as_bytes(), 0o600)?;
    root.write(AGENT_TOKEN, agent_token.password().as_bytes(), 0o600)?;
    common(root, &papers.key, &yaml)?;
    // Used up: without a WAL the next start needs it from the provisioner again.
    root.remove(GRANT)?;
    Ok(())
}

fn worker(root: &Root, papers: &Papers, address: Option<Ipv4Addr>) -> Result<(), GateError> {
    no_drop_in(root)?;
    let manifest = papers.manifest.get();
    let token = papers.tokens(root).open(Secret::AgentToken)?;
    let address = manifest.network.address.map(|cidr| cidr.address).or(address);
    let yaml = config::worker(manifest, address, &TokenFiles::below(root))?;
    if !papers.kept.started {
        Kept { started: true, ..papers.kept.clone() }.save(root)?;
    }
    root.write(TOKEN, token.text().as_bytes(), 0o600)?;
    common(root, &papers.key, &yaml)
}

/// k3s reads more than what is written here.
fn no_drop_in(root: &Root) -> Result<(), GateError> {
    match dropin::decisive(root) {
        Some((path, key)) => Err(GateError::DropIn { path, key }),
        None => Ok(()),
    }
}

fn common(root: &Root, key: &SecretKey, yaml: &str) -> Result<(), GateError> {
    // The same after every reinstall, so "Node password rejected" cannot happen (facts: k3s §0.17).
    root.write_if_other(NODE_PASSWORD, key.node_password().as_bytes(), 0o600)?;
    root.write_if_other(CONFIG, yaml.as_bytes(), 0o600)?;
    Ok(())
}

/// The first granted voter that shows the granted CA; its token hash must be the one in our token.
async fn first_fitting(
    root: &Root,
    identity: &Identity,
    voters: &[(NodeName, Ipv4Addr)],
    token: &Token,
) -> Result<Ipv4Addr, GateError> {
    let have = token.ca().ok_or(GateError::BareToken)?;
    let prober = Prober::new(root.clone())?;
    let mut tried = Vec::new();
    for (name, address) in voters {
        match prober.cacerts(*address).await {
            Ok(cacerts) if Digest::of(&cacerts) == identity.ca => {
                return match token_hash(&cacerts) {
                    Some(want) if want == have => Ok(*address),
                    Some(want) => Err(TokenError::OtherCa { have, want }.into()),
                    None => Err(TokenError::Malformed(Malformed).into()),
                };
            }
            Ok(cacerts) => tried.push(format!("{name} ({address}) has CA {}", Digest::of(&cacerts))),
            Err(why) => tried.push(format!("{name}: {why}")),
        }
    }
    Err(GateError::NoVoter { tried })
}

fn k3s_copy(root: &Root, path: &str) -> Option<Token> {
    let bytes = zeroize::Zeroizing::new(root.read(path).ok()??);
    Token::parse(std::str::from_utf8(&bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::record::look;
    use super::*;
    use crate::node::testing::{Cluster, node};
    use crate::state::{Numbers, SEEN};
    use muster_protocol::grant::Grant;
    use muster_protocol::grant::Start;
    use muster_protocol::ids::Number;
    use muster_protocol::sealed::SealedBox;
    use muster_protocol::signed::{By, Listener, Signed};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const NOW: u64 = 1_800_000_000;
    const INIT: Start =
        Start::Init { nonce: [3; 16], installation: Number { delegation: 0, generation: 0, n: 0 } };

    async fn pass(root: &Root) -> Result<(), GateError> {
        super::pass(root, Papers::read(root).unwrap(), None, NOW).await
    }

    fn give(root: &Root, cluster: &Cluster, grant: &Grant) {
        let signed = cluster.sign(grant);
        let verified = signed.verify(By::Online(&cluster.trust), &Listener::default()).unwrap();
        root.save(SEEN, &Numbers { grant: verified.accepted(), ..root.numbers().unwrap() }).unwrap();
        root.save(GRANT, &signed).unwrap();
    }

    fn text(root: &Root, path: &str) -> String {
        String::from_utf8(root.read(path).unwrap().unwrap()).unwrap()
    }

    fn write_wal(root: &Root, name: &str) {
        let db = root.path(record::DB);
        fs::create_dir_all(db.join("etcd/member/wal")).unwrap();
        fs::write(db.join("etcd/member/wal/0.wal"), "x").unwrap();
        fs::write(db.join("etcd/name"), name).unwrap();
    }

    #[tokio::test]
    async fn an_init_grant_is_good_for_one_start_and_leaves_its_traces_first() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        assert!(matches!(pass(&root).await, Err(GateError::Refused(Refusal::NoGrant))));
        let grant = cluster.grant(1, 30, INIT);
        give(&root, &cluster, &grant);
        pass(&root).await.unwrap();
        assert_eq!(Kept::load(&root).unwrap().record, GateRecord::Initialising { nonce: [3; 16] });
        assert!(text(&root, CONFIG).contains("cluster-init: \"true\""));
        assert_eq!(text(&root, TOKEN).len(), 64, "the init start alone has the bare password");
        assert_eq!(text(&root, NODE_PASSWORD), *cluster.node(1).node_password());
        for path in [TOKEN, AGENT_TOKEN, NODE_PASSWORD, CONFIG] {
            assert_eq!(fs::metadata(root.path(path)).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
        }
        assert!(!root.exists(GRANT));
        // k3s died before it wrote a WAL: the same grant is needed again, and the tokens stay what they were.
        let token = text(&root, TOKEN);
        assert!(matches!(pass(&root).await, Err(GateError::Refused(Refusal::NoGrant))));
        give(&root, &cluster, &grant);
        pass(&root).await.unwrap();
        assert_eq!(text(&root, TOKEN), token);
        // With a WAL it starts offline, and says `cluster-init` no more.
        write_wal(&root, "mini-pc-1-1a2b3c4d");
        for _ in 0..2 {
            pass(&root).await.unwrap();
            let config = text(&root, CONFIG);
            assert!(
                !config.contains("cluster-init") && config.contains("server: \"https://10.99.0.12:6443\"")
            );
        }
    }

    #[tokio::test]
    async fn a_grant_for_another_key_or_by_another_hand_is_refused() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        let mut grant = cluster.grant(1, 30, INIT);
        grant.key = cluster.node(2).public().fingerprint();
        root.save(GRANT, &cluster.sign(&grant)).unwrap();
        assert!(matches!(pass(&root).await, Err(GateError::BadGrant(Refused::OtherKey { .. }))));
        let by_node = Signed::by_key(cluster.trust.cluster, &cluster.node(1), &grant);
        root.save(GRANT, &by_node).unwrap();
        assert!(matches!(pass(&root).await, Err(GateError::BadGrant(Refused::NoDelegation))));
        assert_eq!(Kept::load(&root).unwrap(), Kept::default());
        assert!(!root.exists(CONFIG) && !root.exists(TOKEN));
    }

    #[tokio::test]
    async fn an_older_grant_than_the_newest_accepted_is_refused() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        give(&root, &cluster, &cluster.grant(1, 31, INIT));
        root.save(GRANT, &cluster.sign(&cluster.grant(1, 30, INIT))).unwrap();
        assert!(matches!(pass(&root).await, Err(GateError::BadGrant(Refused::Older { .. }))));
    }

    #[tokio::test]
    async fn a_join_without_a_token_or_a_voter_keeps_grant_and_data() {
        let cluster = Cluster::new();
        let root = node(&cluster, 2);
        write_wal(&root, "mini-pc-2-1a2b3c4d");
        let identity = Identity { ca: Digest([1; 32]), cluster_id: 5 };
        // Nobody listens there.
        let voters = vec![(Cluster::name(1), Ipv4Addr::new(127, 0, 0, 2))];
        give(&root, &cluster, &cluster.grant(2, 40, Start::Join { identity, voters }));
        assert!(matches!(pass(&root).await, Err(GateError::Token(TokenError::Missing { .. }))));

        let init = cluster.node(1);
        for (secret, user) in [(Secret::ServerToken, "server"), (Secret::AgentToken, "node")] {
            let plain = format!("K10{}::{user}:pw", Digest([1; 32]));
            let (from, to) = (init.public().fingerprint(), cluster.node(2).public());
            let sealed = SealedBox::seal(
                cluster.trust.cluster,
                secret,
                plain.as_bytes(),
                from,
                &to,
                &mut system_rng(),
            );
            let signed = Signed::by_key(cluster.trust.cluster, &init, &sealed.unwrap());
            let papers = Papers::read(&root).unwrap();
            assert!(papers.tokens(&root).receive(Role::Server, &signed).unwrap());
        }
        assert!(matches!(pass(&root).await, Err(GateError::NoVoter { .. })));
        assert!(root.exists(GRANT) && look(&root).data.wal);
        assert_eq!(Kept::load(&root).unwrap(), Kept::default());
    }

    #[tokio::test]
    async fn a_member_starts_though_its_boxes_are_gone() {
        let cluster = Cluster::new();
        let root = node(&cluster, 2);
        write_wal(&root, "mini-pc-2-1a2b3c4d");
        let record = GateRecord::Member {
            identity: Identity { ca: Digest([1; 32]), cluster_id: 5 },
            name: "mini-pc-2-1a2b3c4d".into(),
            address: Cluster::address(2),
        };
        Kept { record, peers: vec![Cluster::address(1)], started: true, ..Kept::default() }
            .save(&root)
            .unwrap();
        assert!(matches!(pass(&root).await, Err(GateError::Token(_))));
        let full = format!("K10{}::server:pw\n", Digest([1; 32]));
        root.write(K3S_TOKEN, full.as_bytes(), 0o600).unwrap();
        root.write(K3S_AGENT_TOKEN, b"K10x", 0o600).unwrap();
        assert!(pass(&root).await.is_err());
        root.write(K3S_AGENT_TOKEN, format!("K10{}::node:apw", Digest([1; 32])).as_bytes(), 0o600).unwrap();
        pass(&root).await.unwrap();
        assert_eq!(text(&root, AGENT_TOKEN), "apw");
        assert!(text(&root, CONFIG).contains("server: \"https://10.99.0.11:6443\""));
    }

    #[tokio::test]
    async fn a_worker_starts_with_the_agent_token_alone() {
        let cluster = Cluster::new();
        let root = node(&cluster, 4);
        assert!(matches!(pass(&root).await, Err(GateError::Token(TokenError::Missing { .. }))));
        let (from, to) = (cluster.node(1).public().fingerprint(), cluster.node(4).public());
        let plain = format!("K10{}::node:apw", Digest([1; 32]));
        let rng = &mut system_rng();
        let sealed =
            SealedBox::seal(cluster.trust.cluster, Secret::AgentToken, plain.as_bytes(), from, &to, rng)
                .unwrap();
        let signed = Signed::by_key(cluster.trust.cluster, &cluster.node(1), &sealed);
        let papers = Papers::read(&root).unwrap();
        papers.tokens(&root).receive(Role::Worker, &signed).unwrap();
        pass(&root).await.unwrap();
        assert_eq!(text(&root, TOKEN), plain);
        assert!(!root.exists(AGENT_TOKEN));
        assert!(Kept::load(&root).unwrap().started);
    }

    #[tokio::test]
    async fn a_file_beside_config_yaml_cannot_decide_past_the_gate() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        give(&root, &cluster, &cluster.grant(1, 30, INIT));
        root.write(&format!("{CONFIG}.d/x.yaml"), b"server: https://10.0.0.1:6443", 0o600).unwrap();
        assert!(matches!(pass(&root).await, Err(GateError::DropIn { key: "server", .. })));
        assert!(root.exists(GRANT) && !root.exists(CONFIG));
    }

    #[tokio::test]
    async fn k3s_does_not_start_in_the_past() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        let early = super::pass(&root, Papers::read(&root).unwrap(), None, 5).await;
        assert!(matches!(early, Err(GateError::Clock { now: 5, .. })));
    }
}
