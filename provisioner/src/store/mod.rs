//! What the provisioner must remember: one redb file with one writer, saved before anything is answered.
//!
//! Rows are JSON, so that a newer program can add a field; what was signed is kept as the very bytes that were sent.
//! Secrets are not here: keys lie beside the store in files of their own, tokens pass through sealed.

/// Files that are served by their digest.
pub mod artifacts;
/// The first act: keys, trust, store.
pub mod founding;
/// The provisioner's and the operator's keys on disk.
pub mod keys;
/// Written beside its place, then renamed.
pub mod partial;
/// What a row holds.
pub mod rows;
/// Where things are below the state directory.
pub mod state_dir;

use muster_protocol::ids::Number;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use state_dir::TRUST;
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// The shape of the rows; a store of a newer program is refused.
const SCHEMA: u64 = 1;
/// The default of 1 GiB is for servers of another size: this store is a few hundred KiB.
const CACHE_BYTES: usize = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store `{}` is in use by {holder}\nhint: one provisioner per state directory; stop it first, or ask it with `muster status`", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("there is no store at `{}`\nhint: `muster init` makes one; --state DIR or MUSTER_STATE names another place", path.display())]
    Missing { path: PathBuf },
    #[error("the store `{}` is lost: the keys beside it are of a cluster that may be running\nhint: put the newest copy of this file back; a new store would know nothing of that cluster, and muster init does not make one", path.display())]
    Lost { path: PathBuf },
    #[error("the store `{}` was written by a newer muster (shape {have}, this program knows {SCHEMA})\nhint: update this muster", path.display())]
    Newer { path: PathBuf, have: u64 },
    #[error("the store's row `{table}/{key}` cannot be read")]
    Row { table: &'static str, key: String, source: serde_json::Error },
    #[error("the store failed")]
    Failed(#[source] Box<redb::Error>),
    #[error("cannot use `{}`", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// redb has an error type per call; for us the store either works or failed.
macro_rules! failures {
    ($($error:ident),+) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Failed(Box::new(error.into()))
            }
        })+
    };
}
failures!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

/// One kind of row.
pub struct Table<T> {
    name: &'static str,
    row: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> Table<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, row: PhantomData }
    }

    fn definition(&self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

/// Bytes as they were sent: orders, manifests, rosters, boxes.
pub const SIGNED: Table<Vec<u8>> = Table::new("signed");

pub struct Store {
    db: redb::Database,
    path: PathBuf,
}

impl Store {
    /// A new store; an existing one is left alone.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        file.map_err(|source| StoreError::File { path: path.to_path_buf(), source })?;
        Self::open(path)
    }

    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            let path = path.to_path_buf();
            // The trust is written last, so with it there was a store.
            let founded = path.with_file_name(TRUST).exists();
            return Err(if founded { StoreError::Lost { path } } else { StoreError::Missing { path } });
        }
        let mut builder = redb::Builder::new();
        // Without the check a file altered by something else may panic redb instead of being refused.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let db = builder.create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                StoreError::Held { path: path.to_path_buf(), holder: owner(path) }
            }
            other => other.into(),
        })?;
        let store = Self { db, path: path.to_path_buf() };
        store.sign_in()?;
        store.prepare()?;
        Ok(store)
    }

    /// Who holds the store, for the message to whom comes second; the lock itself is the file's.
    fn sign_in(&self) -> Result<(), StoreError> {
        let path = owner_path(&self.path);
        let args: Vec<String> = std::env::args().take(2).collect();
        let text = format!("{}\n{}\n", std::process::id(), args.join(" "));
        // A new file in its place: root must not write through a link that the service's own user put there.
        let made = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => std::fs::File::create_new(&path),
        };
        made.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| StoreError::File { path, source })
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        for name in rows::TABLES {
            tx.open_table(TableDefinition::<&str, &[u8]>::new(name))?;
        }
        tx.commit()?;
        self.write(|tx| match tx.get(rows::COUNTERS, "schema")? {
            Some(SCHEMA) => Ok(()),
            None => tx.put(rows::COUNTERS, "schema", &SCHEMA),
            Some(have) => Err(StoreError::Newer { path: self.path.clone(), have }),
        })
    }

    /// One transaction: all of it is on disk when this returns `Ok`, nothing of it otherwise.
    pub fn write<R, E: From<StoreError>>(&self, act: impl FnOnce(&mut Tx) -> Result<R, E>) -> Result<R, E> {
        let inner = self.db.begin_write().map_err(StoreError::from)?;
        let mut tx = Tx { inner, changed: false };
        let result = act(&mut tx)?;
        // Most hellos change nothing; then nothing need reach the disk.
        let end = if tx.changed {
            tx.inner.commit().map_err(StoreError::from)
        } else {
            tx.inner.abort().map_err(StoreError::from)
        };
        end.map(|()| result).map_err(E::from)
    }

    /// A consistent look.
    pub fn view(&self) -> Result<View, StoreError> {
        Ok(View { inner: self.db.begin_read()? })
    }
}

fn owner_path(store: &Path) -> PathBuf {
    store.with_extension("owner")
}

fn owner(store: &Path) -> String {
    let text = std::fs::read_to_string(owner_path(store)).unwrap_or_default();
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(pid), Some(command)) if Path::new("/proc").join(pid).exists() => {
            format!("process {pid} (`{command}`)")
        }
        _ => "another process".into(),
    }
}

/// What both kinds of transaction can do.
pub trait Read {
    fn bytes(&self, table: &'static str, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn range(&self, table: &'static str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    fn get<T: DeserializeOwned>(&self, table: Table<T>, key: &str) -> Result<Option<T>, StoreError> {
        self.bytes(table.name, key)?.map(|bytes| row(table.name, key, &bytes)).transpose()
    }

    /// Rows whose key begins with `prefix`, in key order.
    fn all<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = self.range(table.name, prefix)?;
        rows.into_iter().map(|(key, bytes)| row(table.name, &key, &bytes).map(|row| (key, row))).collect()
    }

    fn signed(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes(SIGNED.name, key)
    }
}

fn row<T: DeserializeOwned>(table: &'static str, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Row { table, key: key.into(), source })
}

fn read_bytes(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

fn read_range(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let mut rows = Vec::new();
    for entry in table.range(prefix..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        rows.push((key.value().to_string(), value.value().to_vec()));
    }
    Ok(rows)
}

pub struct View {
    inner: redb::ReadTransaction,
}

impl Read for View {
    fn bytes(&self, table: &'static str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_bytes(&self.inner.open_table(TableDefinition::<&str, &[u8]>::new(table))?, key)
    }

    fn range(&self, table: &'static str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        read_range(&self.inner.open_table(TableDefinition::<&str, &[u8]>::new(table))?, prefix)
    }
}

pub struct Tx {
    inner: redb::WriteTransaction,
    changed: bool,
}

impl Read for Tx {
    fn bytes(&self, table: &'static str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_bytes(&self.inner.open_table(TableDefinition::<&str, &[u8]>::new(table))?, key)
    }

    fn range(&self, table: &'static str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        read_range(&self.inner.open_table(TableDefinition::<&str, &[u8]>::new(table))?, prefix)
    }
}

impl Tx {
    pub fn put<T: Serialize>(&mut self, table: Table<T>, key: &str, value: &T) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Row {
            table: table.name,
            key: key.into(),
            source,
        })?;
        self.changed = true;
        self.inner.open_table(table.definition())?.insert(key, bytes.as_slice())?;
        Ok(())
    }

    pub fn put_signed(&mut self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.changed = true;
        self.inner.open_table(SIGNED.definition())?.insert(key, bytes)?;
        Ok(())
    }

    pub fn delete<T>(&mut self, table: Table<T>, key: &str) -> Result<(), StoreError> {
        self.changed = true;
        self.inner.open_table(table.definition())?.remove(key)?;
        Ok(())
    }

    /// The next number of the one rising counter, never given twice.
    pub fn fresh(&mut self, delegation: u32) -> Result<Number, StoreError> {
        let n = self.get(rows::COUNTERS, "n")?.unwrap_or(0) + 1;
        self.put(rows::COUNTERS, "n", &n)?;
        let generation = generation(self)?;
        Ok(Number { delegation, generation, n })
    }
}

/// Rises with every restore.
pub fn generation(view: &impl Read) -> Result<u32, StoreError> {
    Ok(u32::try_from(view.get(rows::COUNTERS, "generation")?.unwrap_or(0)).unwrap_or(u32::MAX))
}

/// The highest number given so far.
pub fn highest(view: &impl Read, delegation: u32) -> Result<Number, StoreError> {
    let n = view.get(rows::COUNTERS, "n")?.unwrap_or(0);
    Ok(Number { delegation, generation: generation(view)?, n })
}

/// Names of every table, for whom wants to look through all of it.
pub fn dump(view: &View) -> Result<Vec<u8>, StoreError> {
    let mut all = Vec::new();
    for table in view.inner.list_tables()? {
        if let Some(name) = rows::TABLES.iter().find(|name| **name == table.name()) {
            for (key, value) in view.range(name, "")? {
                all.extend_from_slice(key.as_bytes());
                all.extend_from_slice(&value);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn numbers_rise_across_reopening() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let first = Store::create(&path).unwrap();
        let one = first.write(|tx| tx.fresh(3)).unwrap();
        drop(first);
        let two = Store::open(&path).unwrap().write(|tx| tx.fresh(3)).unwrap();
        assert!(two > one, "{two} after {one}");
    }

    #[test]
    fn a_failed_transaction_leaves_nothing_behind() {
        let folder = tempdir().unwrap();
        let store = Store::create(&folder.path().join("store.redb")).unwrap();
        let failed: Result<(), StoreError> = store.write(|tx| {
            tx.fresh(0)?;
            Err(StoreError::Missing { path: PathBuf::new() })
        });
        assert!(failed.is_err());
        assert_eq!(highest(&store.view().unwrap(), 0).unwrap().n, 0);
    }

    #[test]
    fn a_second_writer_is_told_who_holds_the_store() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let _first = Store::create(&path).unwrap();
        let error = Store::open(&path).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_copy_taken_while_it_is_written_opens_with_whole_transactions_only() {
        let folder = tempdir().unwrap();
        let folder = folder.path();
        let store = Store::create(&folder.join("store.redb")).unwrap();
        for round in 0..20_u64 {
            store
                .write(|tx| {
                    tx.put(rows::COUNTERS, "a", &round)?;
                    tx.put(rows::COUNTERS, "b", &round)
                })
                .unwrap();
            // What a kill -9 leaves: the file as it is, an uncommitted transaction half written, no clean close.
            let copy = folder.join(format!("copy-{round}.redb"));
            let half: Result<(), StoreError> = store.write(|tx| {
                tx.put(rows::COUNTERS, "a", &999)?;
                std::fs::copy(folder.join("store.redb"), &copy)
                    .map_err(|source| StoreError::File { path: copy.clone(), source })?;
                Err(StoreError::Missing { path: PathBuf::new() })
            });
            assert!(half.is_err());
            let opened = Store::open(&copy).unwrap();
            let view = opened.view().unwrap();
            assert_eq!(view.get(rows::COUNTERS, "a").unwrap(), Some(round));
            assert_eq!(view.get(rows::COUNTERS, "b").unwrap(), Some(round));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_without_a_panic() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(&path, vec![0x5a; 20_000]).unwrap();
        assert!(Store::open(&path).is_err());
    }
}
