// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes to stdout: text, tables, JSON.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};

use crate::failure::Failure;

/// Writes `text` to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Unread),
        Err(error) => Err(Failure::run(format_args!("cannot write to stdout: {error}; send it elsewhere"))),
    }
}

/// Writes `value` to stdout as one JSON object.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::run)?;
    print(&(text + "\n"))
}

/// A table: the first `names` columns to the left, the others, which are numbers, to the right.
pub(crate) fn table<R: IntoIterator<Item = String>>(
    head: impl IntoIterator<Item = impl Into<String>>,
    rows: impl IntoIterator<Item = R>,
    names: usize,
) -> String {
    let mut builder = Builder::default();
    builder.push_record(head);
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::psql()).modify(Columns::new(names..), Alignment::right());
    format!("{table}\n")
}
