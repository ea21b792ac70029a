// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state file: what the settings were, on disk before they are changed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, process};

use serde::{Deserialize, Serialize};

use super::error::{Error, StateFault};
use crate::root::{ReadError, Root};

/// The version of the file's format.
const VERSION: u32 = 1;

/// More than any state file has.
const LIMIT: u64 = 1 << 16;

/// What a run changes, as it was before. It has no paths, so a file can ask for nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// The process that wrote it.
    pid: u32,
    /// When the machine runs the next time, nothing of this is true any more.
    pub(super) boot_id: String,
    /// Whether pages that enter a pool are optimised.
    pub(super) optimise: bool,
    /// Bytes of a page of the pool.
    pub(super) page_bytes: u64,
    /// The node of the pool.
    pub(super) node: Option<u32>,
    /// The length of the pool, surplus pages left out: what was written to `nr_hugepages`.
    pub(super) pages: u64,
}

impl State {
    pub(super) fn new(
        boot_id: String,
        optimise: bool,
        page_bytes: u64,
        node: Option<u32>,
        pages: u64,
    ) -> Self {
        Self { version: VERSION, pid: process::id(), boot_id, optimise, page_bytes, node, pages }
    }

    /// Writes it to `path`, where nothing may be: either all of it is on the disk afterwards, or nothing.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::Stale { path: path.to_owned() });
        }
        let text =
            serde_json::to_string_pretty(self).map_err(|error| fault(path, StateFault::Io(error.into())))?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(OsString::from(format!(".{}", process::id())));
        let beside = PathBuf::from(beside);
        let publish = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            sync_directory(path)
        };
        publish().map_err(|error| {
            let _ = fs::remove_file(&beside);
            fault(path, StateFault::Io(error))
        })
    }

    /// Reads the file at `path`; `None` where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        match fs::symlink_metadata(path) {
            Ok(data) if !data.is_file() => return Err(fault(path, StateFault::Foreign)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(path, StateFault::Io(error))),
        }
        let open = || -> io::Result<(fs::Metadata, String)> {
            let file = File::open(path)?;
            let data = file.metadata()?;
            let mut text = String::new();
            file.take(LIMIT).read_to_string(&mut text)?;
            Ok((data, text))
        };
        let (data, text) = open().map_err(|error| fault(path, StateFault::Io(error)))?;
        if !data.is_file() || data.uid() != rustix::process::geteuid().as_raw() || data.mode() & 0o022 != 0 {
            return Err(fault(path, StateFault::Foreign));
        }
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| fault(path, StateFault::Format(error.to_string())))?;
        if state.version != VERSION {
            return Err(fault(path, StateFault::Format(format!("version {}, not {VERSION}", state.version))));
        }
        if !state.page_bytes.is_power_of_two() || state.page_bytes < 1024 {
            return Err(fault(path, StateFault::Format(format!("pages of {} bytes", state.page_bytes))));
        }
        Ok(Some(state))
    }
}

/// Removes the file at `path`, for good.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path)
        .and_then(|()| sync_directory(path))
        .map_err(|error| fault(path, StateFault::Io(error)))
}

/// What tells one start of the machine from another.
pub(super) fn boot_id(root: &Root) -> Result<String, ReadError> {
    root.word("proc/sys/kernel/random/boot_id")
}

/// Where the state file is if nobody says: in `/run` for root, else in the user's runtime directory, else in the
/// directory for temporary files.
#[must_use]
pub fn default_path() -> PathBuf {
    let run = Path::new("/run");
    let directory = if rustix::process::geteuid().is_root() && run.is_dir() {
        run.to_owned()
    } else {
        env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|path| path.is_dir())
            .unwrap_or_else(env::temp_dir)
    };
    directory.join("mmkit-hvo.json")
}

fn fault(path: &Path, fault: StateFault) -> Error {
    Error::State { path: path.to_owned(), fault }
}

/// A name that was added or removed is on the disk when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
