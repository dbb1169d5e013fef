//! The verbs. stdout is for data, stderr for people.

use crate::api::kinds::Place;
use crate::base::log::say;
use crate::base::paths::Paths;
use crate::base::yaml;
use crate::kubectl::arguments::{BadCall, Call, parse};
use crate::kubectl::client::{Api, KubectlError};
use crate::kubectl::nodes::{self, BadChange, Change};
use crate::server::controllers::ready_status;
use serde_json::Value;
use std::io::Read;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Exit status of `k3s kubectl ARGS`.
pub async fn run(args: &[String], paths: &Paths) -> i32 {
    match try_run(args, paths).await {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            1
        }
    }
}

async fn try_run(args: &[String], paths: &Paths) -> Result<(), KubectlError> {
    let call = parse(args).map_err(|e: BadCall| KubectlError::Usage(e.to_string()))?;
    let api = Api::open(paths, call.timeout_s.map_or(LIMIT, Duration::from_secs))?;
    match call.verb.as_str() {
        "get" => get(&api, &call).await,
        "cordon" => each_node(&api, &call, |node| Ok(nodes::cordon(node, true))).await,
        "uncordon" => each_node(&api, &call, |node| Ok(nodes::cordon(node, false))).await,
        "drain" => drain(&api, &call).await,
        "label" => change_node(&api, &call, |node, specs| nodes::label(node, specs, call.overwrite)).await,
        "taint" => change_node(&api, &call, |node, specs| nodes::taint(node, specs, call.overwrite)).await,
        "delete" => delete(&api, &call).await,
        "apply" => apply(&api, &call).await,
        other => Err(KubectlError::Usage(format!("unknown command {other:?} for \"kubectl\" (stand-in)"))),
    }
}

async fn get(api: &Api, call: &Call) -> Result<(), KubectlError> {
    if let Some(path) = &call.raw {
        let reply = api.get(path).await?;
        let _ = std::io::Write::write_all(&mut std::io::stdout(), &reply.body);
        return Ok(());
    }
    let (noun, name) = noun_and_name(call)?;
    let place = place(&noun, call, name.as_deref().unwrap_or_default())?;
    let path = if name.is_some() { place.path() } else { place.collection() };
    let mut object = match api.get(&path).await {
        Ok(reply) => reply.json(),
        Err(KubectlError::Server { code: 404, .. }) if call.ignore_not_found => return Ok(()),
        Err(e) => return Err(e),
    };
    if name.is_none() {
        (object["apiVersion"], object["kind"]) = ("v1".into(), "List".into());
    }
    match call.output.as_deref() {
        Some("json") => say!("{:#}", object),
        Some("name") => items(&object).iter().for_each(|o| say!("{}/{}", singular(&place), meta_name(o))),
        Some(other) => {
            return Err(KubectlError::Usage(format!("the stand-in has no output format {other:?}")));
        }
        None => table(&place, &items(&object)),
    }
    Ok(())
}

fn singular(place: &Place) -> String {
    place.shown().split('/').next().unwrap_or_default().to_owned()
}

fn items(object: &Value) -> Vec<Value> {
    object["items"].as_array().cloned().unwrap_or_else(|| vec![object.clone()])
}

fn meta_name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn table(place: &Place, objects: &[Value]) {
    if objects.is_empty() {
        eprintln!("No resources found");
        return;
    }
    if place.plural != "nodes" {
        say!("NAME");
        objects.iter().for_each(|o| say!("{}", meta_name(o)));
        return;
    }
    say!("{:<20} {:<26} {:<22} VERSION", "NAME", "STATUS", "ROLES");
    for node in objects {
        let mut status = match ready_status(node) {
            Some("True") => "Ready".to_owned(),
            Some(_) | None => "NotReady".to_owned(),
        };
        if node["spec"]["unschedulable"] == true {
            status += ",SchedulingDisabled";
        }
        let labels = node["metadata"]["labels"].as_object();
        let roles: Vec<&str> = labels
            .map(|l| l.keys().filter_map(|k| k.strip_prefix("node-role.kubernetes.io/")).collect())
            .unwrap_or_default();
        let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
        let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
        say!("{:<20} {status:<26} {roles:<22} {version}", meta_name(node));
    }
}

/// `get node X`, `get node/X`, `get nodes`.
fn noun_and_name(call: &Call) -> Result<(String, Option<String>), KubectlError> {
    let first = call.words.first().ok_or_else(|| KubectlError::Usage("a resource is required".into()))?;
    match first.split_once('/') {
        Some((noun, name)) => Ok((noun.to_owned(), Some(name.to_owned()))),
        None => Ok((first.clone(), call.words.get(1).cloned())),
    }
}

fn place(noun: &str, call: &Call, name: &str) -> Result<Place, KubectlError> {
    Place::of_noun(noun, call.namespace.as_deref(), name).ok_or_else(|| {
        KubectlError::Usage(format!("the server doesn't have a resource type {noun:?} (stand-in)"))
    })
}

fn node_names(call: &Call) -> impl Iterator<Item = &str> {
    let plain = |word: &str| !matches!(word, "node" | "nodes");
    call.words.iter().map(|w| w.strip_prefix("node/").unwrap_or(w)).filter(move |w| plain(w))
}

async fn change(
    api: &Api,
    name: &str,
    how: impl Fn(&Value) -> Result<Change, BadChange>,
) -> Result<(), KubectlError> {
    let path = format!("/api/v1/nodes/{name}");
    let node = api.get(&path).await?.json();
    let change = how(&node).map_err(|e| KubectlError::Usage(e.to_string()))?;
    if let Some(patch) = &change.patch {
        api.merge(&path, patch).await?;
    }
    say!("{}", change.said);
    Ok(())
}

async fn each_node(
    api: &Api,
    call: &Call,
    how: impl Fn(&Value) -> Result<Change, BadChange>,
) -> Result<(), KubectlError> {
    let mut any = false;
    for name in node_names(call) {
        change(api, name, &how).await?;
        any = true;
    }
    if any { Ok(()) } else { Err(KubectlError::Usage("a node name is required".into())) }
}

/// `label node X a=b`, `taint nodes X a=b:Effect`.
async fn change_node(
    api: &Api,
    call: &Call,
    how: impl Fn(&Value, &[String]) -> Result<Change, BadChange>,
) -> Result<(), KubectlError> {
    let [noun, name, specs @ ..] = call.words.as_slice() else {
        return Err(KubectlError::Usage("a node and at least one change are required".into()));
    };
    place(noun, call, name)?;
    change(api, name, |node| how(node, specs)).await
}

async fn drain(api: &Api, call: &Call) -> Result<(), KubectlError> {
    for name in node_names(call) {
        change(api, name, |node| Ok(nodes::cordon(node, true))).await?;
        eprintln!("stand-in: no pods run here, none was evicted");
        say!("node/{name} drained");
    }
    Ok(())
}

/// Deletes, and waits until the object is gone: that is where a removal that hangs is felt.
async fn delete(api: &Api, call: &Call) -> Result<(), KubectlError> {
    let (noun, _) = noun_and_name(call)?;
    let names: Vec<String> = match call.words.first().and_then(|w| w.split_once('/')) {
        Some((_, name)) => vec![name.to_owned()],
        None => call.words.iter().skip(1).cloned().collect(),
    };
    let until = call.timeout_s.map(|s| Instant::now() + Duration::from_secs(s));
    for name in names {
        let place = place(&noun, call, &name)?;
        match api.delete(&place.path()).await {
            Ok(_) => say!("{} {name:?} deleted", singular(&place)),
            Err(KubectlError::Server { code: 404, .. }) if call.ignore_not_found => continue,
            Err(e) => return Err(e),
        }
        if call.wait {
            wait_until_gone(api, &place, until).await?;
        }
    }
    Ok(())
}

async fn wait_until_gone(api: &Api, place: &Place, until: Option<Instant>) -> Result<(), KubectlError> {
    loop {
        match api.get(&place.path()).await {
            Err(KubectlError::Server { code: 404, .. }) => return Ok(()),
            Ok(_) | Err(_) if until.is_some_and(|at| Instant::now() > at) => {
                let what = format!("{}/{}", place.plural, place.name);
                return Err(KubectlError::Usage(format!("timed out waiting for the condition on {what}")));
            }
            Ok(_) => tokio::time::sleep(POLL).await,
            Err(e) => return Err(e),
        }
    }
}

async fn apply(api: &Api, call: &Call) -> Result<(), KubectlError> {
    if !call.server_side {
        return Err(KubectlError::Usage("the stand-in applies with --server-side only".into()));
    }
    let file = call.file.as_deref().ok_or_else(|| KubectlError::Usage("must specify -f".into()))?;
    let text = if file == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|e| KubectlError::Usage(format!("{file}: {e}")))?;
    let documents =
        yaml::documents(&text).map_err(|e| KubectlError::Usage(format!("error parsing {file}: {e}")))?;
    for object in documents.iter().flat_map(items) {
        let place = Place::of(&object).ok_or_else(|| {
            KubectlError::Usage(format!("{file}: an object lacks apiVersion, kind or metadata.name"))
        })?;
        api.apply(&place.path(), &call.field_manager, &object).await?;
        say!("{} serverside-applied", place.shown());
    }
    Ok(())
}
