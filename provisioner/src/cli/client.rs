//! Asking the provisioner as an operator: JSON over TLS, pinned to the cluster's online key.

use super::Common;
use super::credential::Credential;
use super::exit::{Code, Failure};
use crate::serve::operator_api::Problem;
use anyhow::Context;
use hyper::Method;
use muster_identity::http::{Client as Http, RequestError, Response};
use muster_identity::{Expect, Identity, client_config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    http: Http,
    credential: Credential,
    server: String,
}

impl Client {
    pub(super) fn new(common: &Common) -> Result<Self, Failure> {
        let credential = Credential::load(common)?;
        let default = || format!("127.0.0.1:{}", muster_protocol::beacon::PORT);
        let server = common.server.clone().or_else(|| credential.server()).unwrap_or_else(default);
        let at = resolve(&server).map_err(|error| Failure::new(Code::Usage, error))?;
        let identity = Identity::operator(credential.trust.cluster, &credential.key)?;
        let config = client_config(&identity, &credential.trust, Expect::Provisioner)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, http: Http::new(at, config), credential, server })
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    pub(super) fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, Vec::new())
    }

    pub(super) fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, serde_json::to_vec(body)?)
    }

    pub(super) fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.ask(Method::DELETE, path, Vec::new())
    }

    fn ask<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        let response = self.request(method, path, body, LIMIT)?;
        let value = understand(response)?;
        self.remember();
        Ok(value)
    }

    fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Response, Failure> {
        let asked = self.http.request(method, path, "application/json", body, limit);
        self.runtime.block_on(asked).map_err(|error| {
            let code = match &error {
                RequestError::TimedOut { .. } => Code::TimedOut,
                RequestError::NotThePeer { .. } => Code::Denied,
                RequestError::Connect { .. }
                | RequestError::Handshake { .. }
                | RequestError::Broken { .. }
                | RequestError::Answer { .. } => Code::Failed,
            };
            let hint = "hint: is `muster serve` running there? --server ADDRESS:PORT asks another one";
            Failure::new(
                code,
                anyhow::Error::new(error)
                    .context(format!("the provisioner at {} does not answer\n{hint}", self.server)),
            )
        })
    }

    /// Like `get`, within a shorter time: for questions that somebody else can answer, too.
    pub(super) fn get_soon<T: DeserializeOwned>(
        &mut self,
        path: &str,
        limit: Duration,
    ) -> Result<T, Failure> {
        let response = self.request(Method::GET, path, Vec::new(), limit)?;
        let value = understand(response)?;
        self.remember();
        Ok(value)
    }

    /// For the day on which this provisioner does not answer.
    fn remember(&mut self) {
        self.credential.remember_server(&self.server);
        if let Ok(response) = self.request(Method::GET, "/v1/roster", Vec::new(), LIMIT)
            && response.status == 200
        {
            self.credential.remember_roster(&response.body);
        }
    }
}

fn understand<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    if response.status == 200 {
        return Ok(serde_json::from_slice(&response.body).context("the provisioner's answer cannot be read")?);
    }
    let problem: Problem = serde_json::from_slice(&response.body).unwrap_or_else(|_| Problem {
        title: format!("the provisioner answered with status {}", response.status),
        ..Problem::default()
    });
    let code = match response.status {
        404 => Code::NotFound,
        401 | 403 => Code::Denied,
        408 | 504 => Code::TimedOut,
        400 | 405 | 422 => Code::Usage,
        _ => Code::Failed,
    };
    let text = match problem.hint {
        Some(hint) => format!("{}\nhint: {hint}", problem.title),
        None => problem.title,
    };
    Err(Failure::new(code, anyhow::Error::msg(text)))
}

/// `ADDRESS:PORT`, or only the address.
pub(super) fn resolve(server: &str) -> anyhow::Result<SocketAddr> {
    let with_port = if server.contains(':') {
        server.to_string()
    } else {
        format!("{server}:{}", muster_protocol::beacon::PORT)
    };
    let mut found = with_port
        .to_socket_addrs()
        .with_context(|| format!("`{server}` is not an address such as 10.77.0.1:7480"))?;
    found.next().with_context(|| format!("`{server}` has no address"))
}
