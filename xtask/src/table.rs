// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain tables: columns aligned by spaces, figures to the right.

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Lays out `rows` below `header`, one line each, without trailing spaces.
pub(crate) fn table<const N: usize>(header: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|(title, _)| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let titles = header.map(|(title, _)| title.to_owned());
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            let width = widths[at];
            match header[at].1 {
                Side::Left => line += &format!("{gap}{cell:<width$}"),
                Side::Right => line += &format!("{gap}{cell:>width$}"),
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["fmt".to_owned(), "1.0".to_owned()], ["documentation".to_owned(), "12.5".to_owned()]];
        let text = table([("lane", Side::Left), ("seconds", Side::Right)], &rows);
        assert_eq!(text, "lane           seconds\nfmt                1.0\ndocumentation     12.5\n");
    }

    #[test]
    fn an_empty_last_cell_leaves_no_trailing_space() {
        let rows = [["a".to_owned(), String::new()]];
        assert_eq!(table([("x", Side::Left), ("why", Side::Left)], &rows), "x  why\na\n");
    }
}
