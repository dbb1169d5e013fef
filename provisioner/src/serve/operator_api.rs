//! What an operator asks: JSON both ways, refusals as problem+json (RFC 9457) with a hint for a person.

use super::api::{Answer, OCTETS};
use crate::core::operator::{Person, Refusal};
use crate::core::{Asker, Core, CoreError, Now, events};
use crate::store::rows::ArtifactRow;
use muster_protocol::ids::NodeName;
use muster_protocol::keys::Fingerprint;
use muster_protocol::order::{PlanId, Wipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::UNIX_EPOCH;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Plan,
    Seen,
    Roster,
    ClusterEvents,
    Explain,
    Approve,
    Install,
    OpenWindow,
    CloseWindow,
    Images,
    RegisterImage,
    Without,
    Abandon,
    Unlock,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Approve {
    pub key: Fingerprint,
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Install {
    #[serde(default)]
    pub plan: Option<PlanId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Installed {
    pub order: String,
    /// `empty`, or the plan id.
    pub wipe: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenWindow {
    pub minutes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    pub name: NodeName,
}

/// A machine that netboots and is not declared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StrangerPart {
    pub mac: String,
    pub firmware: String,
    pub times: u64,
    pub last_unix_ms: u64,
}

/// Why a request was not done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub hint: Option<String>,
}

pub(super) fn problem(status: u16, title: &str, hint: Option<&str>) -> Answer {
    let problem = Problem { title: title.into(), status, hint: hint.map(Into::into) };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    Answer { status, content_type: "application/problem+json", body }
}

/// A fault of ours: told short, logged whole.
pub(super) fn failed(error: &CoreError) -> Answer {
    let chain = format!("{:#}", anyhow::Error::msg(chain(error)));
    tracing::error!(error = chain, "answering a request failed");
    problem(500, "the provisioner failed to answer; its log says why", None)
}

/// The whole chain of causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Answer { status: 200, content_type: "application/json", body },
        Err(_) => problem(500, "the answer cannot be written as JSON", None),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal {
        Refusal::NoSuchMachine(_) | Refusal::NoSuchKey { .. } => 404,
        Refusal::WindowLength => 422,
        Refusal::KeyOfAnother { .. }
        | Refusal::Installed { .. }
        | Refusal::KeepsItsSystem(_)
        | Refusal::NotAdmitted(_)
        | Refusal::NoInventory(_)
        | Refusal::Order(_)
        | Refusal::Cluster(_)
        | Refusal::Frozen(_)
        | Refusal::NoWindow => 409,
        Refusal::Core(error) => return failed(error),
    };
    let text = refusal.to_string();
    let (title, hint) = text.split_once("\nhint: ").map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    problem(status, title, hint)
}

fn done<T: Serialize>(result: Result<T, Refusal>) -> Answer {
    match result {
        Ok(value) => json(&value),
        Err(refusal) => refused(&refusal),
    }
}

fn told<T: Serialize>(result: Result<T, CoreError>) -> Answer {
    match result {
        Ok(value) => json(&value),
        Err(error) => failed(&error),
    }
}

/// Reads the body, then acts; an unreadable one is answered with what was wrong in it.
fn with<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Answer) -> Answer {
    match serde_json::from_slice(body) {
        Ok(value) => act(value),
        Err(error) => problem(400, &format!("the body cannot be read: {error}"), None),
    }
}

/// Parses the path's name, then acts.
fn of(segment: Option<&str>, act: impl FnOnce(&NodeName) -> Answer) -> Answer {
    match segment.unwrap_or_default().parse() {
        Ok(name) => act(&name),
        Err(error) => problem(404, &format!("{error}"), None),
    }
}

pub(super) fn respond(
    core: &mut Core,
    now: Now,
    asker: &Asker,
    route: Route,
    segment: Option<&str>,
    body: &[u8],
) -> Answer {
    let by = Person { key: asker.print() };
    match route {
        Route::Status => told(core.picture(now)),
        Route::Plan => told(core.plan(now)),
        Route::Seen => json(&seen(core)),
        Route::Roster => match core.roster_bytes() {
            Ok(body) => Answer { status: 200, content_type: OCTETS, body },
            Err(error) => failed(&error),
        },
        Route::ClusterEvents => {
            told(core.store().view().and_then(|view| events::of(&view, events::CLUSTER)).map_err(Into::into))
        }
        Route::Explain => of(segment, |name| match core.explain(now, name) {
            Ok(Some(explanation)) => json(&explanation),
            Ok(None) => refused(&Refusal::NoSuchMachine(name.clone())),
            Err(error) => failed(&error),
        }),
        Route::Approve => of(segment, |name| {
            with(body, |ask: Approve| done(core.approve(now, by, name, ask.key, ask.replace)))
        }),
        Route::Install => of(segment, |name| {
            with(body, |ask: Install| {
                done(core.install(now, by, name, ask.plan).map(|(number, wipe)| Installed {
                    order: number.to_string(),
                    wipe: match wipe {
                        Wipe::OnlyEmpty => "empty".into(),
                        Wipe::Plan(plan) => plan.to_string(),
                    },
                }))
            })
        }),
        Route::OpenWindow => with(body, |ask: OpenWindow| done(core.open_window(now, by, ask.minutes))),
        Route::CloseWindow => done(core.close_window(now, by)),
        Route::Images => told(core.artifacts()),
        Route::RegisterImage => with(body, |row: ArtifactRow| told(core.register(now, Some(by), &row))),
        Route::Without => with(body, |ask: Named| done(core.cluster_without(now, by, &ask.name))),
        Route::Abandon => with(body, |ask: Named| done(core.cluster_abandon(now, by, &ask.name))),
        Route::Unlock => done(core.cluster_unlock(now, by)),
    }
}

fn seen(core: &Core) -> Vec<StrangerPart> {
    let unix_ms =
        |at: std::time::SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let part = |(mac, stranger): (muster_protocol::ids::Mac, crate::boot::seen::Stranger)| StrangerPart {
        mac: mac.to_string(),
        firmware: stranger.firmware.to_string(),
        times: stranger.times,
        last_unix_ms: u64::try_from(unix_ms(stranger.last)).unwrap_or(0),
    };
    core.strangers().into_iter().map(part).collect()
}
