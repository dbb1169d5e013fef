//! The datastore: etcd's key-value store, or a JSON file where k3s would have SQLite.

use crate::base::paths::write;
use crate::etcd::gateway::{Entry, EtcdError, Gateway};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const USUAL: Duration = Duration::from_secs(8);
const FIRST_LINE: &str = "stand-in for k3s's SQLite: one JSON object below\n";

pub enum Store {
    Etcd(Rc<Gateway>),
    File(FileStore),
}

/// key -> (value as text, revision)
pub struct FileStore {
    file: PathBuf,
    entries: RefCell<BTreeMap<String, (String, u64)>>,
}

impl FileStore {
    pub fn open(file: &Path) -> std::io::Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let body = text.strip_prefix(FIRST_LINE).unwrap_or("{}");
        let entries = serde_json::from_str(body).map_err(std::io::Error::other)?;
        let store = Self { file: file.into(), entries: RefCell::new(entries) };
        store.save()?;
        Ok(store)
    }

    /// Everything, for a migration to etcd.
    pub fn all(&self) -> Vec<(String, String)> {
        self.entries.borrow().iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    fn save(&self) -> std::io::Result<()> {
        let json = serde_json::to_string(&*self.entries.borrow()).map_err(std::io::Error::other)?;
        write(&self.file, 0o600, format!("{FIRST_LINE}{json}").as_bytes())
    }

    fn change(&self, key: &str, value: Option<String>) -> Result<(), EtcdError> {
        {
            let mut entries = self.entries.borrow_mut();
            let next = entries.values().map(|(_, revision)| revision + 1).max().unwrap_or(1);
            match value {
                Some(value) => drop(entries.insert(key.to_owned(), (value, next))),
                None => drop(entries.remove(key)),
            }
        }
        self.save().map_err(|e| EtcdError::Odd(e.to_string()))
    }

    fn entry(&self, key: &str) -> Option<Entry> {
        let entries = self.entries.borrow();
        let (value, revision) = entries.get(key)?;
        Some(Entry { key: key.to_owned(), value: value.clone().into_bytes(), revision: *revision })
    }
}

impl Store {
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, EtcdError> {
        match self {
            Self::Etcd(etcd) => etcd.get(key, USUAL).await,
            Self::File(file) => Ok(file.entry(key)),
        }
    }

    pub async fn list(&self, prefix: &str, limit: Duration) -> Result<Vec<Entry>, EtcdError> {
        match self {
            Self::Etcd(etcd) => etcd.list(prefix, limit).await,
            Self::File(file) => {
                let keys: Vec<String> =
                    file.entries.borrow().keys().filter(|k| k.starts_with(prefix)).cloned().collect();
                Ok(keys.iter().filter_map(|key| file.entry(key)).collect())
            }
        }
    }

    /// Write if the key still has this revision (0: does not exist).
    pub async fn put_if(&self, key: &str, value: &str, revision: u64) -> Result<bool, EtcdError> {
        match self {
            Self::Etcd(etcd) => etcd.put_if(key, value.as_bytes(), revision).await,
            Self::File(file) => {
                if file.entry(key).map_or(0, |e| e.revision) != revision {
                    return Ok(false);
                }
                file.change(key, Some(value.to_owned())).map(|()| true)
            }
        }
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<(), EtcdError> {
        match self {
            Self::Etcd(etcd) => etcd.put(key, value.as_bytes()).await,
            Self::File(file) => file.change(key, Some(value.to_owned())),
        }
    }

    pub async fn delete(&self, key: &str) -> Result<bool, EtcdError> {
        match self {
            Self::Etcd(etcd) => etcd.delete(key).await,
            Self::File(file) => {
                let existed = file.entry(key).is_some();
                file.change(key, None).map(|()| existed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_remembers_and_guards_by_revision() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        rt.block_on(async {
            let store = Store::File(FileStore::open(&file).unwrap());
            assert!(store.put_if("/registry/a", "1", 0).await.unwrap());
            assert!(!store.put_if("/registry/a", "2", 0).await.unwrap());
            let again = Store::File(FileStore::open(&file).unwrap());
            assert_eq!(again.get("/registry/a").await.unwrap().unwrap().value, b"1");
            assert!(again.delete("/registry/a").await.unwrap());
        });
    }
}
