// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings that are put back.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{Error, Skip};
use super::state::{self, State};
use crate::pool::{OPTIMISE, Pool, PoolName};
use crate::root::{ReadError, ReadFault, Root};

/// How often a setting is written until it is what it was. A signal can cut a write short.
const TRIES: usize = 4;

/// The right to change the switch of HVO and the length of one pool. Dropped, it puts both back.
pub(super) struct Settings<'r> {
    root: &'r Root,
    name: PoolName,
    state: State,
    state_file: PathBuf,
    /// Surplus pages of the pool before.
    surplus: u64,
    /// The state file is there: things may be changed.
    armed: bool,
    /// Whoever holds this lock changes these settings.
    _lock: File,
}

impl<'r> Settings<'r> {
    /// Takes the right, and writes down what the settings are.
    pub(super) fn take(
        root: &'r Root,
        name: PoolName,
        state_file: &Path,
    ) -> Result<Result<Self, Skip>, Error> {
        if Pool::optimises(root)?.is_none() {
            return Ok(Err(Skip::NotSupported { path: root.path(OPTIMISE) }));
        }
        for file in [OPTIMISE, &name.file("nr_hugepages")] {
            let path = root.path(file);
            match OpenOptions::new().write(true).open(&path) {
                Ok(_) => {}
                Err(error) if is_refusal(&error) => {
                    return Ok(Err(Skip::NotAllowed { path, why: error.to_string() }));
                }
                Err(error) => return Err(ReadError { path, fault: ReadFault::Io(error) }.into()),
            }
        }
        let lock = lock(root)?;
        // Read again: what was there before the lock may have been another run's.
        let optimise = Pool::optimises(root)?.unwrap_or_default();
        let pool = name.read(root)?;
        let pages = pool.pages.saturating_sub(pool.surplus);
        let state = State::new(state::boot_id(root)?, optimise, name.page_bytes, name.node, pages);
        state.write(state_file)?;
        let (state_file, surplus) = (state_file.to_owned(), pool.surplus);
        Ok(Ok(Self { root, name, state, state_file, surplus, armed: true, _lock: lock }))
    }

    /// Takes over the settings of a run that was cut short.
    pub(super) fn adopt(root: &'r Root, state: State, state_file: &Path) -> Result<Self, Error> {
        let lock = lock(root)?;
        let name = PoolName { page_bytes: state.page_bytes, node: state.node };
        let surplus = name.read(root)?.surplus;
        Ok(Self { root, name, state, state_file: state_file.to_owned(), surplus, armed: true, _lock: lock })
    }

    /// The settings as they were.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Turns HVO on or off, for pages that enter a pool from now on.
    pub(super) fn optimise(&self, on: bool) -> Result<(), Error> {
        write(&self.root.path(OPTIMISE), on.into())
    }

    /// Sets the length of the pool. The kernel comes as near as it can.
    pub(super) fn resize(&self, pages: u64) -> Result<(), Error> {
        write(&self.root.path(&self.name.file("nr_hugepages")), pages)
    }

    /// Puts everything back. Answers how many pages the kernel could not give back: they left the pool and still are
    /// huge pages, without use (it had no memory to restore their descriptors).
    pub(super) fn put_back(mut self) -> Result<u64, Error> {
        self.put()?;
        let surplus = self.name.read(self.root)?.surplus;
        Ok(surplus.saturating_sub(self.surplus))
    }

    fn put(&mut self) -> Result<(), Error> {
        self.armed = false;
        // Both are tried, whatever comes of the first.
        let pool = self.set(self.name.file("nr_hugepages"), self.state.pages, |settings| {
            let pool = settings.name.read(settings.root)?;
            Ok(pool.pages.saturating_sub(pool.surplus))
        });
        let switch = self.set(OPTIMISE.to_owned(), self.state.optimise.into(), |settings| {
            Ok(Pool::optimises(settings.root)?.unwrap_or_default().into())
        });
        pool.and(switch)?;
        state::remove(&self.state_file)
    }

    /// Writes a setting until it reads as it should.
    fn set(
        &self,
        file: String,
        wanted: u64,
        read: impl Fn(&Self) -> Result<u64, ReadError>,
    ) -> Result<(), Error> {
        let setting = self.root.path(&file);
        let mut is = read(self)?;
        for _ in 0..TRIES {
            if is == wanted {
                return Ok(());
            }
            write(&setting, wanted)?;
            is = read(self)?;
        }
        if is == wanted {
            return Ok(());
        }
        Err(Error::NotPutBack { setting, wanted, is, state_file: self.state_file.clone() })
    }
}

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        // Only a panic comes here with changed settings. What fails now leaves the state file for the next run to find.
        if self.armed {
            let _ = self.put();
        }
    }
}

/// The lock of the whole machine: on the file of the switch itself, which is one for all, needs no cleaning up, and is
/// unlocked by the end of the process.
fn lock(root: &Root) -> Result<File, Error> {
    let path = root.path(OPTIMISE);
    let read = |error| ReadError { path: path.clone(), fault: ReadFault::Io(error) };
    let file = File::open(&path).map_err(read)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InProgress),
        Err(TryLockError::Error(error)) => Err(read(error).into()),
    }
}

fn write(path: &Path, value: u64) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    let file = options.write(true).truncate(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{value}\n").as_bytes())).map_err(|source| Error::Write {
        path: path.to_owned(),
        value,
        source,
    })
}

/// Whether the system says that this user, or anybody, may not.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
