//! The file that etcd is started with: k3s's own settings, as recorded, in etcd 3.5's words.

use crate::base::paths::Paths;
use std::fmt::Write;

/// How this start of etcd relates to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initial {
    /// The WAL decides.
    FromDisk,
    New,
    /// Other members as (name, peer URL), ourselves among them.
    Existing(Vec<(String, String)>),
    /// cluster-reset.
    ForceNew,
}

pub struct Member<'a> {
    pub name: &'a str,
    pub ip: &'a str,
    pub metrics_on_node_ip: bool,
    pub debug: bool,
}

impl Member<'_> {
    pub fn peer_url(&self) -> String {
        format!("https://{}:2380", bracketed(self.ip))
    }

    pub fn client_url(&self) -> String {
        format!("https://{}:2379", bracketed(self.ip))
    }

    /// YAML, one key a line.
    pub fn config(&self, paths: &Paths, initial: &Initial) -> String {
        let (db, tls) = (paths.etcd_db(), paths.etcd_tls());
        let tls = |file: &str| tls.join(file).display().to_string();
        let (peer, client) = (self.peer_url(), self.client_url());
        let metrics = match self.metrics_on_node_ip {
            true => format!("http://127.0.0.1:2381,http://{}:2381", bracketed(self.ip)),
            false => "http://127.0.0.1:2381".to_owned(),
        };
        let mut text = format!(
            "advertise-client-urls: {client}\n\
             client-transport-security:\n  cert-file: {}\n  client-cert-auth: true\n  key-file: {}\n  trusted-ca-file: {}\n\
             data-dir: {}\n\
             election-timeout: 5000\n\
             experimental-initial-corrupt-check: true\n\
             experimental-watch-progress-notify-interval: 5000000000\n\
             heartbeat-interval: 500\n\
             initial-advertise-peer-urls: {peer}\n\
             listen-client-http-urls: https://127.0.0.1:2382\n\
             listen-client-urls: https://127.0.0.1:2379,{client}\n\
             listen-metrics-urls: {metrics}\n\
             listen-peer-urls: https://127.0.0.1:2380,{peer}\n\
             log-level: {}\n\
             log-outputs:\n- stderr\n\
             logger: zap\n\
             name: {}\n\
             peer-transport-security:\n  cert-file: {}\n  client-cert-auth: true\n  key-file: {}\n  trusted-ca-file: {}\n\
             snapshot-count: 10000\n\
             socket-options:\n  reuse-address: true\n  reuse-port: true\n",
            tls("server-client.crt"),
            tls("server-client.key"),
            tls("server-ca.crt"),
            db.display(),
            if self.debug { "info" } else { "warn" },
            self.name,
            tls("peer-server-client.crt"),
            tls("peer-server-client.key"),
            tls("peer-ca.crt"),
        );
        let cluster = |members: &[(String, String)]| {
            members.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
        };
        let own = [(self.name.to_owned(), peer)];
        let more = match initial {
            Initial::FromDisk => String::new(),
            Initial::New => format!("initial-cluster: {}\ninitial-cluster-state: new\n", cluster(&own)),
            Initial::Existing(members) => {
                format!("initial-cluster: {}\ninitial-cluster-state: existing\n", cluster(members))
            }
            Initial::ForceNew => "force-new-cluster: true\n".to_owned(),
        };
        let _ = text.write_str(&more);
        text
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::yaml;
    use std::path::Path;

    #[test]
    fn the_file_differs_from_the_recorded_one_only_where_stated() {
        let member =
            Member { name: "mini-pc-2-5daadf9c", ip: "10.99.0.12", metrics_on_node_ip: false, debug: false };
        let ours = member.config(&Paths::new(Path::new("/"), None), &Initial::FromDisk);
        let ours = yaml::documents(&ours).unwrap().remove(0);
        let recorded = yaml::documents(include_str!("../../fixtures/etcd-config.yaml")).unwrap().remove(0);
        let (ours, recorded) = (ours.as_object().unwrap(), recorded.as_object().unwrap());
        for (key, value) in recorded {
            match key.as_str() {
                // etcd 3.5 knows it under an experimental name, and its default (off) is near enough
                "bootstrap-defrag-threshold-megabytes" => assert!(!ours.contains_key(key)),
                _ => assert_eq!(ours.get(key), Some(value), "{key}"),
            }
        }
        let more: Vec<_> = ours.keys().filter(|k| !recorded.contains_key(*k)).collect();
        assert_eq!(more, ["initial-advertise-peer-urls", "log-level"]);
    }
}
