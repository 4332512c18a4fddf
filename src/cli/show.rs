//! How commands show what they have found: tables for people, JSON and YAML for programs. Pure.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Serialize;

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl Output {
    /// A value for programs; `None` where people are meant.
    pub(super) fn document(self, value: &impl Serialize) -> Option<String> {
        match self {
            Self::Table => None,
            Self::Json => Some(format!("{:#}\n", serde_json::json!(value))),
            Self::Yaml => Some(yaml(value)),
        }
    }
}

/// One YAML document that ends with a line's end.
pub(super) fn yaml(value: &impl Serialize) -> String {
    // Through JSON, whose maps are in order of their keys: kinds of numbers and empty maps are written as kubectl does.
    let value = serde_json::json!(value);
    let text = serde_saphyr::to_string(&value).unwrap_or_else(|error| format!("# cannot be shown as YAML: {error}\n"));
    if text.ends_with('\n') { text } else { text + "\n" }
}

/// How something looks, where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// It is well.
    Good,
    /// It may be well.
    Doubtful,
    /// It is not well.
    Bad,
    /// It matters little.
    Faint,
    /// It is a title.
    Strong,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette(bool);

impl Palette {
    /// Colours on a terminal, unless the user wants none (<https://no-color.org>).
    pub(super) fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !unwanted && !dumb)
    }

    /// None.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self(false)
    }

    /// A text in a tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.0 => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell(String, Tone);

impl Cell {
    /// A text in a tone. Much of what is shown was said by clusters: nothing of it may move the cursor.
    pub(super) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = clean(text.as_ref());
        if text.is_empty() { Self("-".into(), Tone::Faint) } else { Self(text, tone) }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A text on one line that does nothing to a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Columns as kubectl has them, so that `awk` and eyes find their way.
pub(super) fn table(palette: Palette, titles: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.0.chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..titles.len()).map(width).collect();
    let head = titles.iter().map(|title| Cell((*title).to_owned(), Tone::Strong)).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        for (column, Cell(content, tone)) in row.iter().enumerate() {
            text += &palette.paint(*tone, content);
            if column + 1 < row.len() {
                text += &" ".repeat(widths[column] - content.chars().count() + 3);
            }
        }
        text.push('\n');
    }
    text
}

/// `1 pod`, `2 pods`
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A time that has passed, as kubectl shows it.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_nothing_trails() {
        let rows = vec![vec!["east".into(), Cell::new("True", Tone::Good)], vec!["a".into(), "".into()]];
        assert_eq!(table(Palette::plain(), &["TARGET", "READY"], &rows), "TARGET   READY\neast     True\na        -\n");
        let colourful = table(Palette(true), &["TARGET", "READY"], &rows);
        assert!(colourful.contains("east     \x1b[32mTrue\x1b[0m\n"), "{colourful:?}");
    }

    #[test]
    fn what_clusters_say_does_nothing_to_the_terminal() {
        assert_eq!(Cell::new("a\x1b[2Jb\nc", Tone::Plain), Cell("a [2Jb c".into(), Tone::Plain));
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "pod")), ["0 pods", "1 pod", "2 pods"]);
    }

    #[test]
    fn ages_are_short() {
        assert_eq!([-1, 7, 119, 120, 7_200, 172_800].map(age), ["0s", "7s", "119s", "2m", "2h", "2d"]);
    }
}
