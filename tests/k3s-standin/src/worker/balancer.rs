//! The local load balancer: TCP from 127.0.0.1:6444 to the first server that takes the connection; its list lies in a file.

use crate::base::{log, paths};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const DIAL: Duration = Duration::from_secs(2);

/// agent/etc/k3s-agent-load-balancer.json, in the form of a real k3s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    #[serde(rename = "ServerURL")]
    pub server_url: String,
    pub server_addresses: Vec<String>,
}

pub struct Balancer {
    file: PathBuf,
    state: RefCell<State>,
    /// Default server: where `server:` points.
    fallback: String,
}

impl Balancer {
    /// A stored list counts only while `server:` is the same.
    pub fn open(file: &Path, server_url: &str) -> Self {
        let fallback = address(server_url);
        let stored = std::fs::read_to_string(file).ok().and_then(|t| serde_json::from_str::<State>(&t).ok());
        let fresh = State { server_url: server_url.to_owned(), server_addresses: vec![fallback.clone()] };
        let state = stored.filter(|s| s.server_url == server_url).unwrap_or(fresh);
        Self { file: file.into(), state: RefCell::new(state), fallback }
    }

    /// The list that the API gave; the order stays, so that a working server stays first.
    pub fn update(&self, addresses: &[String]) -> std::io::Result<()> {
        {
            let mut state = self.state.borrow_mut();
            let mut next: Vec<String> =
                state.server_addresses.iter().filter(|a| addresses.contains(a)).cloned().collect();
            next.extend(addresses.iter().filter(|a| !state.server_addresses.contains(a)).cloned());
            if next == state.server_addresses && self.file.exists() {
                return Ok(());
            }
            state.server_addresses = next;
        }
        let text = serde_json::to_string_pretty(&*self.state.borrow()).map_err(std::io::Error::other)?;
        paths::write(&self.file, 0o600, text.as_bytes())
    }

    fn candidates(&self) -> Vec<String> {
        let mut all = self.state.borrow().server_addresses.clone();
        if !all.contains(&self.fallback) {
            all.push(self.fallback.clone());
        }
        all
    }

    /// The one that took a connection goes to the front: no round robin.
    fn prefer(&self, address: &str) {
        let mut state = self.state.borrow_mut();
        if let Some(at) = state.server_addresses.iter().position(|a| a == address) {
            state.server_addresses[..=at].rotate_right(1);
        }
    }

    async fn dial(&self) -> Option<TcpStream> {
        for address in self.candidates() {
            if let Ok(Ok(stream)) = tokio::time::timeout(DIAL, TcpStream::connect(&address)).await {
                self.prefer(&address);
                return Some(stream);
            }
        }
        None
    }

    /// Serve for ever.
    pub async fn run(self: Rc<Self>, listener: TcpListener) {
        loop {
            let Ok((mut client, _)) = listener.accept().await else { continue };
            let balancer = self.clone();
            tokio::task::spawn_local(async move {
                match balancer.dial().await {
                    Some(mut server) => {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                    None => log::error("Load balancer k3s-agent-load-balancer: no healthy server"),
                }
            });
        }
    }
}

fn address(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    if rest.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) {
        rest.to_owned()
    } else {
        format!("{rest}:443")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_state_comes_back_unchanged() {
        let text = include_str!("../../fixtures/objects/k3s-agent-load-balancer.json");
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string_pretty(&state).unwrap(), text.trim_end());
    }

    #[test]
    fn a_stored_list_counts_only_for_the_same_server() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stored");
        std::fs::write(&file, include_str!("../../fixtures/objects/k3s-agent-load-balancer.json")).unwrap();
        assert_eq!(Balancer::open(&file, "https://10.99.0.12:6443").candidates().len(), 3);
        assert_eq!(Balancer::open(&file, "https://10.99.0.11:6443").candidates(), ["10.99.0.11:6443"]);
    }

    #[test]
    fn the_server_that_works_is_asked_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prefer");
        let balancer = Balancer::open(&file, "https://a:6443");
        balancer.update(&["a:6443".into(), "b:6443".into()]).unwrap();
        balancer.prefer("b:6443");
        assert_eq!(balancer.candidates(), ["b:6443", "a:6443"]);
        balancer.update(&["b:6443".into()]).unwrap();
        assert_eq!(balancer.candidates(), ["b:6443", "a:6443"]);
    }
}
