//! Objects over the store: create, read, patch, delete; guarded by revision, tried again when somebody else was faster.

use crate::api::apply::{apply, merge};
use crate::api::store::Store;
use crate::base::clock::rfc3339_now;
use crate::etcd::gateway::{Entry, EtcdError};
use serde_json::{Value, json};
use std::time::Duration;

const TRIES: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    Exists,
    #[error("the object has been modified; please apply your changes to the latest version and try again")]
    Conflict,
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// How a PATCH body is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    Merge,
    Apply { manager: String },
}

/// `/api/v1/nodes/x` is stored under `/registry/api/v1/nodes/x`.
pub fn key(path: &str) -> String {
    format!("/registry{path}")
}

pub async fn get(store: &Store, path: &str) -> Result<Value, ObjectError> {
    store.get(&key(path)).await?.as_ref().and_then(shown).ok_or(ObjectError::NotFound)
}

pub async fn list(store: &Store, collection: &str, limit: Duration) -> Result<Vec<Value>, ObjectError> {
    Ok(store.list(&format!("{}/", key(collection)), limit).await?.iter().filter_map(shown).collect())
}

pub async fn create(store: &Store, path: &str, mut object: Value) -> Result<Value, ObjectError> {
    stamp(&mut object);
    if store.put_if(&key(path), &object.to_string(), 0).await? {
        get(store, path).await
    } else {
        Err(ObjectError::Exists)
    }
}

/// Change an object that exists; `change` sees the newest version each time.
pub async fn update(
    store: &Store,
    path: &str,
    mut change: impl FnMut(&mut Value),
) -> Result<Value, ObjectError> {
    for _ in 0..TRIES {
        let entry = store.get(&key(path)).await?.ok_or(ObjectError::NotFound)?;
        let mut object = shown(&entry).ok_or(ObjectError::NotFound)?;
        change(&mut object);
        if store.put_if(&key(path), &object.to_string(), entry.revision).await? {
            return get(store, path).await;
        }
    }
    Err(ObjectError::Conflict)
}

pub async fn patch(store: &Store, path: &str, how: &Patch, body: &Value) -> Result<Value, ObjectError> {
    let manager = match how {
        Patch::Merge => return update(store, path, |object| merge(object, body)).await,
        Patch::Apply { manager } => manager,
    };
    let owned = format!("/standin/applied/{manager}{path}");
    let before: Option<Value> = store.get(&owned).await?.and_then(|e| serde_json::from_slice(&e.value).ok());
    let mut fresh = body.clone();
    own(&mut fresh, manager);
    let applied = match create(store, path, fresh).await {
        Ok(object) => object,
        Err(ObjectError::Exists) => {
            update(store, path, |object| {
                apply(object, before.as_ref(), body);
                own(object, manager);
            })
            .await?
        }
        Err(e) => return Err(e),
    };
    store.put(&owned, &body.to_string()).await?;
    Ok(applied)
}

/// With finalizers an object is only marked; the controllers finish it.
pub async fn delete(store: &Store, path: &str) -> Result<Value, ObjectError> {
    let object = get(store, path).await?;
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if held {
        return update(store, path, |o| {
            if o["metadata"]["deletionTimestamp"].is_null() {
                o["metadata"]["deletionTimestamp"] = json!(rfc3339_now());
            }
        })
        .await;
    }
    store.delete(&key(path)).await?;
    Ok(object)
}

fn shown(entry: &Entry) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(&entry.value).ok()?;
    object["metadata"]["resourceVersion"] = json!(entry.revision.to_string());
    Some(object)
}

fn stamp(object: &mut Value) {
    let metadata = &mut object["metadata"];
    if metadata["creationTimestamp"].is_null() {
        metadata["creationTimestamp"] = json!(rfc3339_now());
    }
    if metadata["uid"].is_null() {
        metadata["uid"] = json!(uuid());
    }
}

fn own(object: &mut Value, manager: &str) {
    let api_version = object["apiVersion"].clone();
    let entry =
        json!({"manager": manager, "operation": "Apply", "apiVersion": api_version, "time": rfc3339_now()});
    let managers = &mut object["metadata"]["managedFields"];
    let mut kept: Vec<Value> = managers.as_array().cloned().unwrap_or_default();
    kept.retain(|m| m["manager"] != manager);
    kept.push(entry);
    *managers = Value::Array(kept);
}

/// A random UUID (RFC 9562, version 4); all zeros if the kernel has no randomness to give.
pub fn uuid() -> String {
    let mut b = [0u8; 16];
    let _ = getrandom::fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
