// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `proc` and `sys` are, and reading single values from there.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// The directory that has `proc` and `sys` in it: `/` for this machine, or a copy of another one's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A file or directory that could not be read, and why.
#[derive(Debug)]
pub struct ReadError {
    /// What was to be read.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: ReadFault,
}

/// Why something could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadFault {
    /// The system refused, or there is no such file.
    Io(io::Error),
    /// It was read and is not what it should be.
    Format {
        /// What is there, or the beginning of it.
        text: String,
        /// What should be.
        expected: &'static str,
    },
}

/// What a directory lists, and what of it could not be read.
#[derive(Debug)]
pub struct Found<T> {
    /// What could be read, in order.
    pub items: Vec<T>,
    /// What is there, and could not be read.
    pub unreadable: Vec<ReadError>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unreadable: Vec::new() }
    }
}

impl<T> Found<T> {
    /// Adds one, or why not.
    pub(crate) fn add(&mut self, read: Result<T, ReadError>) {
        match read {
            Ok(item) => self.items.push(item),
            Err(error) => self.unreadable.push(error),
        }
    }
}

impl ReadError {
    /// Whether there is no such file: the kernel does not have what it stands for, or no such device.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        // A file of a device that goes away while it is read says so in its own way.
        matches!(&self.fault, ReadFault::Io(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()))
    }

    pub(crate) fn format(path: &Path, text: &str, expected: &'static str) -> Self {
        let text = text.trim_end().chars().take(40).collect();
        Self { path: path.to_owned(), fault: ReadFault::Format { text, expected } }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            ReadFault::Io(error) => write!(f, "{path}: {error}"),
            ReadFault::Format { text, expected } => write!(f, "{path}: {text:?} is not {expected}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            ReadFault::Io(error) => Some(error),
            ReadFault::Format { .. } => None,
        }
    }
}

impl Root {
    /// This machine.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/")
    }

    /// A directory with copies of `proc` and `sys`, or of parts of them.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The path of `file`, such as `"proc/vmstat"`, below this root.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// The whole text of a file.
    pub(crate) fn text(&self, file: &str) -> Result<String, ReadError> {
        let path = self.path(file);
        fs::read_to_string(&path).map_err(|error| ReadError { path, fault: ReadFault::Io(error) })
    }

    /// The text of a file of one line, without the line's end.
    pub(crate) fn word(&self, file: &str) -> Result<String, ReadError> {
        let mut text = self.text(file)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// The decimal number that is all of a file.
    pub(crate) fn number(&self, file: &str) -> Result<u64, ReadError> {
        let text = self.text(file)?;
        decimal(text.trim_end()).ok_or_else(|| ReadError::format(&self.path(file), &text, "a decimal number"))
    }

    /// The names in a directory, sorted. A name that is no text is left out.
    pub(crate) fn names(&self, directory: &str) -> Result<Vec<String>, ReadError> {
        let path = self.path(directory);
        let list = || -> io::Result<Vec<String>> {
            let entries = fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?;
            Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        };
        let mut names =
            list().map_err(|error| ReadError { path: path.clone(), fault: ReadFault::Io(error) })?;
        names.sort_by(|a, b| by_numbers(a).cmp(&by_numbers(b)));
        Ok(names)
    }
}

/// Digits and nothing else: no sign, no space.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The number behind `prefix`, as in `node12`.
pub(crate) fn numbered(name: &str, prefix: &str) -> Option<u32> {
    decimal(name.strip_prefix(prefix)?)?.try_into().ok()
}

/// An order in which `node2` comes before `node10`.
fn by_numbers(name: &str) -> (&str, Vec<u64>, &str) {
    let letters = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let numbers = name[letters..].split(|c: char| !c.is_ascii_digit()).filter_map(decimal).collect();
    (&name[..letters], numbers, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn numbers_are_decimal_and_alone() {
        let tree = Fixture::empty("numbers");
        for (text, number) in [("0\n", Some(0)), ("12", Some(12)), ("18446744073709551615\n", Some(u64::MAX))]
        {
            tree.write("n", text);
            assert_eq!(tree.root().number("n").ok(), number);
        }
        for text in ["", "\n", "-1\n", "+1\n", "1 2\n", " 1\n", "0x10\n", "18446744073709551616\n", "one\n"] {
            tree.write("n", text);
            let error = tree.root().number("n").unwrap_err();
            assert!(error.to_string().ends_with("is not a decimal number") && !error.is_missing(), "{error}");
        }
        assert!(tree.root().number("none").unwrap_err().is_missing());
    }

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let tree = Fixture::empty("names");
        for name in ["node10", "node2", "dax1.0", "dax0.10", "dax0.9"] {
            tree.write(&format!("d/{name}"), "");
        }
        let names = tree.root().names("d").unwrap();
        assert_eq!(names, ["dax0.9", "dax0.10", "dax1.0", "node2", "node10"]);
        assert!(tree.root().names("none").unwrap_err().is_missing());
        assert_eq!(
            [numbered("node7", "node"), numbered("node", "node"), numbered("nod7", "node")],
            [Some(7), None, None]
        );
    }
}
