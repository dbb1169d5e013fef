//! Keys of k3s's configuration that nobody may pass through: one list for `cluster.toml`, for the gate before k3s, and for
//! the files that k3s reads beside it.
//!
//! Names, `key+` and one-letter names as k3s reads them (k3s: pkg/configfilearg/parser.go, pkg/cli/cmds).

/// One such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    pub key: &'static str,
    pub hold: Hold,
    /// Why it cannot be passed through.
    pub why: &'static str,
    /// What to do instead.
    pub remedy: &'static str,
}

/// Who holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It decides alone which datastore k3s opens, makes or joins: refused in `config.yaml.d` too.
    Gate,
    /// Muster writes it itself.
    Muster,
    /// Nobody: it would harm whoever passes it through.
    Nobody,
}

/// `key+` appends to what an earlier file said of `key`, and sets it where none did: so it is the key.
pub fn plain(key: &str) -> &str {
    key.strip_suffix('+').unwrap_or(key)
}

/// Why this key, written with or without a `+` behind it, is refused.
pub fn reserved(key: &str) -> Option<&'static Reserved> {
    let key = plain(key);
    ALL.iter().find(|reserved| reserved.key == key)
}

const fn gate(key: &'static str, why: &'static str, remedy: &'static str) -> Reserved {
    Reserved { key, hold: Hold::Gate, why, remedy }
}

const fn muster(key: &'static str, why: &'static str, remedy: &'static str) -> Reserved {
    Reserved { key, hold: Hold::Muster, why, remedy }
}

const fn nobody(key: &'static str, why: &'static str, remedy: &'static str) -> Reserved {
    Reserved { key, hold: Hold::Nobody, why, remedy }
}

const INIT: &str = "it makes a new cluster: the gate writes it for one start of one server, ever";
const JOIN: &str = "it says which cluster is joined: the gate writes a voter that was checked";
const RESET: &str = "it makes a new cluster out of an old one, which only a person may";
const ELSEWHERE: &str = "with another datastore the checks before a start would look at the wrong one";
const TOKEN: &str = "k3s's tokens are made on the first server and travel sealed";
const MACHINE: &str = "it is written from the machine's own entry";
const SECRET: &str = "a manifest is signed, not sealed: everyone who boots could read it";
const PORT: &str =
    "muster asks k3s on its usual ports; on others it would see nothing and hold back every change";
const WHOLE: &str = "every server is voter, API server and worker at once; muster waits for all three";

const RENEWED: &str = "the configuration is written anew at each start";

const TAKE_OUT: &str = "take it out of `extra`";
const ROLE: &str = "take it out of `extra`; `role = \"server\"` of the machines says who is a member";
const ENTRY: &str = "take it out of `extra`; set `name`, `address`, `labels` and `taints` of the machine";
const BY_HAND: &str = "take it out of `extra`; call `k3s server --cluster-reset` by hand";
const PLACE: &str = "take it out of `extra`; it is /var/lib/rancher/k3s on the data partition";
const S3: &str = "name a Secret by `etcd-s3-config-secret`";

/// All of them. One letter is k3s's other name for the key before it.
pub const ALL: &[Reserved] = &[
    gate("cluster-init", INIT, ROLE),
    gate("server", JOIN, ROLE),
    gate("s", JOIN, ROLE),
    gate("cluster-reset", RESET, BY_HAND),
    gate("cluster-reset-restore-path", RESET, BY_HAND),
    gate("datastore-endpoint", ELSEWHERE, "take it out of `extra`; muster's clusters have embedded etcd"),
    gate("data-dir", ELSEWHERE, PLACE),
    gate("d", ELSEWHERE, PLACE),
    gate("disable-etcd", WHOLE, "take it out of `extra`; a machine without etcd is `role = \"worker\"`"),
    muster("token", TOKEN, TAKE_OUT),
    muster("t", TOKEN, TAKE_OUT),
    muster("token-file", TOKEN, TAKE_OUT),
    muster("agent-token", TOKEN, TAKE_OUT),
    muster("agent-token-file", TOKEN, TAKE_OUT),
    muster(
        "etcd-snapshot-dir",
        "muster looks for snapshots in k3s's own folder before it lets a server join",
        TAKE_OUT,
    ),
    muster("node-name", MACHINE, ENTRY),
    muster("with-node-id", "a Node's name is the machine's name, nothing behind it", TAKE_OUT),
    muster("node-ip", MACHINE, ENTRY),
    muster("i", MACHINE, ENTRY),
    muster("node-label", MACHINE, ENTRY),
    muster("node-taint", MACHINE, ENTRY),
    muster("config", RENEWED, TAKE_OUT),
    muster("c", RENEWED, TAKE_OUT),
    muster("etcd-expose-metrics", "etcd's metrics are for this machine's agent alone", TAKE_OUT),
    muster("secrets-encryption", "it is on, and cannot be changed under a running cluster", TAKE_OUT),
    nobody("etcd-s3-access-key", SECRET, S3),
    nobody("etcd-s3-secret-key", SECRET, S3),
    nobody("etcd-s3-session-token", SECRET, S3),
    nobody("vpn-auth", SECRET, "name a file by `vpn-auth-file`"),
    nobody("https-listen-port", PORT, TAKE_OUT),
    nobody("supervisor-port", PORT, TAKE_OUT),
    nobody("lb-server-port", PORT, TAKE_OUT),
    nobody("disable-apiserver", WHOLE, TAKE_OUT),
    nobody("disable-agent", WHOLE, TAKE_OUT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_with_a_reason_and_a_remedy() {
        for (at, reserved) in ALL.iter().enumerate() {
            assert!(!ALL[..at].iter().any(|earlier| earlier.key == reserved.key), "{}", reserved.key);
            assert!(!reserved.why.is_empty() && !reserved.remedy.is_empty(), "{}", reserved.key);
            assert_eq!(plain(reserved.key), reserved.key);
        }
    }

    #[test]
    fn a_plus_behind_a_key_hides_nothing() {
        assert_eq!(reserved("cluster-init+"), reserved("cluster-init"));
        assert_eq!(reserved("server").map(|reserved| reserved.hold), Some(Hold::Gate));
        assert_eq!(reserved("etcd-s3-secret-key+").map(|reserved| reserved.hold), Some(Hold::Nobody));
        for free in ["", "+", "disable", "kubelet-arg+", "server-side", "serve"] {
            assert_eq!(reserved(free), None, "{free}");
        }
    }
}
