//! The join table: what a start of k3s does, from what lies on the disk and what the config says. Nothing else is looked at.
//!
//! Order as in pkg/etcd `Register` (tombstone), pkg/cluster `assignManagedDriver` (WAL directory, then flags), bootstrap (SQLite).

use crate::{config::Config, texts};
use alloc::{format, string::String};
use core::fmt;

/// What lies under server/db.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// The DIRECTORY db/etcd/member/wal exists: k3s asks no more than that.
    pub wal_dir: bool,
    /// That directory holds no file.
    pub wal_empty: bool,
    pub tombstone: bool,
    /// db/state.db, the SQLite datastore.
    pub state_db: bool,
    /// Contents of db/etcd/name.
    pub name_file: Option<String>,
}

/// What one start of k3s does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The WAL decides; `cluster-init` and `server:` are not looked at.
    ExistingMember,
    NewEtcdCluster,
    Join {
        server: String,
    },
    /// The hazard: a single server with a datastore of its own.
    NewSqlite,
    ExistingSqlite,
    /// state.db becomes state.db.migrated and an etcd cluster of one starts.
    Migrate,
    /// db/etcd is moved to etcd-backup-<unix time>, then as `Join`, without asking anybody.
    RejoinAfterTombstone {
        server: String,
    },
    Agent {
        server: String,
    },
    Fatal(FatalStart),
}

/// Why a start ends at once; `Display` is the text of the log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FatalStart {
    TombstoneWithoutServer,
    /// A half wipe: the empty directory is taken for an old member.
    EmptyWal {
        name: String,
    },
    /// SQLite data, then `server:`: the local CA is not the cluster's.
    SqliteThenServer {
        server: String,
    },
    /// The wording is not recorded from a real k3s.
    JoinWithoutToken,
    AgentWithoutServer,
    AgentWithoutToken,
}

/// The join table of k3s.
pub fn decide_start(disk: &DiskFacts, config: &Config) -> Start {
    if config.is_agent {
        return match (&config.server, &config.token) {
            (Some(server), Some(_)) => Start::Agent { server: server.clone() },
            (Some(_), None) => Start::Fatal(FatalStart::AgentWithoutToken),
            (None, _) => Start::Fatal(FatalStart::AgentWithoutServer),
        };
    }
    if disk.tombstone {
        return match &config.server {
            Some(server) => Start::RejoinAfterTombstone { server: server.clone() },
            None => Start::Fatal(FatalStart::TombstoneWithoutServer),
        };
    }
    if disk.wal_dir {
        return if disk.wal_empty {
            Start::Fatal(FatalStart::EmptyWal { name: disk.name_file.clone().unwrap_or_default() })
        } else {
            Start::ExistingMember
        };
    }
    match (&config.server, config.cluster_init) {
        (Some(_), _) if config.token.is_none() => Start::Fatal(FatalStart::JoinWithoutToken),
        (Some(server), _) if disk.state_db => {
            Start::Fatal(FatalStart::SqliteThenServer { server: server.clone() })
        }
        (Some(server), _) => Start::Join { server: server.clone() },
        (None, true) if disk.state_db => Start::Migrate,
        (None, true) => Start::NewEtcdCluster,
        (None, false) if disk.state_db => Start::ExistingSqlite,
        (None, false) => Start::NewSqlite,
    }
}

impl fmt::Display for FatalStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::TombstoneWithoutServer => format!(
                "preparing server: failed to start supervisor listener: {}",
                texts::TOMBSTONE_WITHOUT_SERVER
            ),
            Self::EmptyWal { name } => format!(
                "starting kubernetes: failed to start cluster: start managed database: couldn't find local name \"{name}\" in the initial cluster configuration"
            ),
            Self::SqliteThenServer { server } => format!(
                "preparing server: failed to bootstrap cluster data: Get \"{server}/v1-k3s/server-bootstrap\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
            ),
            Self::JoinWithoutToken => String::from("K3S_TOKEN is required to join a cluster"),
            Self::AgentWithoutServer => String::from("--server is required"),
            Self::AgentWithoutToken => String::from("--token is required"),
        };
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Token;

    fn config(cluster_init: bool, server: bool) -> Config {
        Config {
            cluster_init,
            server: server.then(|| String::from("https://10.77.0.11:6443")),
            token: Token::parse("sekret").ok(),
            is_agent: false,
        }
    }

    fn disk(wal: bool, tombstone: bool, state_db: bool) -> DiskFacts {
        DiskFacts { wal_dir: wal, wal_empty: false, tombstone, state_db, name_file: None }
    }

    #[test]
    fn with_a_wal_the_flags_are_not_looked_at() {
        for (init, server) in [(false, false), (true, false), (false, true), (true, true)] {
            assert_eq!(decide_start(&disk(true, false, false), &config(init, server)), Start::ExistingMember);
        }
    }

    #[test]
    fn a_wiped_first_server_with_its_old_config_makes_a_new_cluster() {
        assert_eq!(decide_start(&DiskFacts::default(), &config(true, false)), Start::NewEtcdCluster);
    }

    #[test]
    fn server_wins_over_cluster_init() {
        assert!(matches!(decide_start(&DiskFacts::default(), &config(true, true)), Start::Join { .. }));
    }

    #[test]
    fn neither_flag_makes_a_sqlite_server() {
        assert_eq!(decide_start(&DiskFacts::default(), &config(false, false)), Start::NewSqlite);
        assert_eq!(decide_start(&disk(false, false, true), &config(false, false)), Start::ExistingSqlite);
    }

    #[test]
    fn cluster_init_over_sqlite_migrates() {
        assert_eq!(decide_start(&disk(false, false, true), &config(true, false)), Start::Migrate);
    }

    #[test]
    fn sqlite_then_server_ends_with_the_recorded_text() {
        let Start::Fatal(why) = decide_start(&disk(false, false, true), &config(false, true)) else {
            panic!("not fatal")
        };
        let recorded = include_str!("../../k3s-standin/fixtures/logs/texts.txt").replace("\\\"", "\"");
        assert!(recorded.contains(&alloc::format!("{why}").replace("10.77.0.11", "10.99.0.12")));
    }

    #[test]
    fn a_tombstone_decides_before_the_wal() {
        assert!(matches!(
            decide_start(&disk(true, true, false), &config(false, true)),
            Start::RejoinAfterTombstone { .. }
        ));
        assert_eq!(
            decide_start(&disk(true, true, false), &config(true, false)),
            Start::Fatal(FatalStart::TombstoneWithoutServer)
        );
    }

    #[test]
    fn an_emptied_wal_directory_fails_whatever_the_flags_say() {
        let facts = DiskFacts {
            wal_dir: true,
            wal_empty: true,
            name_file: Some(String::from("mini-pc-3-731f27c2")),
            ..DiskFacts::default()
        };
        for (init, server) in [(true, false), (false, true), (false, false)] {
            let Start::Fatal(why) = decide_start(&facts, &config(init, server)) else { panic!("not fatal") };
            let recorded = include_str!("../../k3s-standin/fixtures/logs/texts.txt").replace("\\\"", "\"");
            assert!(recorded.contains(&alloc::format!("{why}")));
        }
    }

    #[test]
    fn a_join_without_a_token_is_no_join() {
        let config = Config { token: None, ..config(false, true) };
        assert_eq!(decide_start(&DiskFacts::default(), &config), Start::Fatal(FatalStart::JoinWithoutToken));
    }
}
