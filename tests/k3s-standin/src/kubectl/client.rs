//! The API as kubectl reaches it: https on loopback with the certificates of k3s.yaml.

use crate::base::http::{Ask, Client, HttpError, Reply, unbase64};
use crate::base::paths::Paths;
use crate::base::tls::{Pair, Trust};
use crate::base::yaml;
use hyper::Method;
use serde_json::Value;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum KubectlError {
    #[error(
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
    )]
    NoKubeconfig,
    #[error("error loading config file \"{0}\": not a kubeconfig of k3s")]
    BadKubeconfig(String),
    #[error("Unable to connect to the server: {0}")]
    Http(#[from] HttpError),
    #[error("Error from server ({reason}): {message}")]
    Server { reason: String, message: String, code: u16 },
    #[error("error: {0}")]
    Usage(String),
}

pub struct Api {
    client: Client,
    limit: Duration,
}

impl Api {
    pub fn open(paths: &Paths, limit: Duration) -> Result<Self, KubectlError> {
        let file = paths.kubeconfig();
        let text = std::fs::read_to_string(&file).map_err(|_| KubectlError::NoKubeconfig)?;
        let bad = || KubectlError::BadKubeconfig(file.display().to_string());
        let config = yaml::documents(&text).map_err(|_| bad())?.into_iter().next().ok_or_else(bad)?;
        let decoded =
            |value: &Value| value.as_str().and_then(unbase64).and_then(|b| String::from_utf8(b).ok());
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let ca = decoded(&cluster["certificate-authority-data"]).ok_or_else(bad)?;
        let crt = decoded(&user["client-certificate-data"]).ok_or_else(bad)?;
        let key = decoded(&user["client-key-data"]).ok_or_else(bad)?;
        let url = cluster["server"].as_str().ok_or_else(bad)?;
        let client = Client::of_url(url, &Trust::Ca(&ca), Some(Pair { crt: &crt, key: &key }))?;
        Ok(Self { client, limit })
    }

    pub async fn get(&self, path: &str) -> Result<Reply, KubectlError> {
        accepted(self.client.get(path, self.limit).await?)
    }

    pub async fn delete(&self, path: &str) -> Result<Reply, KubectlError> {
        self.send(Method::DELETE, path, "application/json", String::new()).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Reply, KubectlError> {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
    }

    pub async fn apply(&self, path: &str, manager: &str, object: &Value) -> Result<Reply, KubectlError> {
        let path = format!("{path}?fieldManager={manager}&force=true");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: String,
    ) -> Result<Reply, KubectlError> {
        let ask = Ask { method, path, headers: &[("content-type", kind)], body: body.into() };
        accepted(self.client.send(&ask, self.limit).await?)
    }
}

fn accepted(reply: Reply) -> Result<Reply, KubectlError> {
    if reply.status < 300 {
        return Ok(reply);
    }
    let json = reply.json();
    let reason = json["reason"].as_str().unwrap_or("InternalError").to_owned();
    Err(KubectlError::Server { reason, message: reply.message(), code: reply.status })
}
