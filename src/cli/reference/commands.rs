//! That every command line of Longshore in the docs, and in what the program says itself, is one that it takes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::super::Cli;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where they are written; the sources for the remedies in their messages.
const PLACES: [&str; 6] = ["docs", "src", "charts", "README.md", "SECURITY.md", "CHANGELOG.md"];

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else if path
        .extension()
        .is_some_and(|one| ["md", "rs", "json", "tpl", "txt", "yaml"].iter().any(|way| one == *way))
    {
        found.push(path.to_owned());
    }
}

/// A command line, and whether it is written as somebody types it: others may be named in part.
#[derive(Debug, PartialEq)]
struct Line {
    words: Vec<String>,
    typed: bool,
}

/// The words of a shell's line, as far as docs need it, up to where the command ends.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(end), _) if letter == end => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '|' | ';' | '&' | '>' | ')') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ' | '\t') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Every place of a line where the program is called.
fn calls(text: &str, typed: bool) -> impl Iterator<Item = Line> {
    let starts = text.match_indices("longshore").filter(|(at, found)| {
        let (before, after) = (&text[..*at], &text[at + found.len()..]);
        let alone = |before: &str| {
            before.trim_end().is_empty() || before.ends_with(['$', '|', ';', '&', '(', '"']) || before.ends_with("sudo")
        };
        let before = before.strip_suffix("target/release/").unwrap_or(before);
        let before = before.trim_end().strip_suffix("kubectl").unwrap_or(before);
        after.starts_with(' ') && alone(before.trim_end())
    });
    starts.map(move |(at, _)| Line { words: words(&text[at..]), typed })
}

/// Those in blocks are typed, those in sentences are named.
fn lines(text: &str, markdown: bool) -> Vec<Line> {
    let (mut found, mut typed, mut block) = (vec![], String::new(), false);
    let mut prose = String::new();
    for line in text.lines() {
        let indented = markdown && line.starts_with("    ") && !line.trim_start().starts_with(['-', '*', '|']);
        if markdown && line.trim_start().starts_with("```") {
            block = !block;
        } else if markdown && (block || indented) {
            typed += line.trim();
            if let Some(begun) = typed.strip_suffix('\\') {
                typed.truncate(begun.len());
                continue;
            }
            found.extend(calls(&typed, true));
            typed.clear();
        } else {
            // In a source a sentence goes on after a backslash, or behind the sign of a comment.
            let line = line.trim().trim_end_matches('\\').trim_start_matches(['/', '!']);
            prose = prose + line.trim_start() + " ";
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    if markdown {
        found.extend(spans.flat_map(|span| calls(span, false)));
    } else {
        // A backtick may be alone in a source: whatever begins behind one counts.
        let named =
            prose.match_indices("`longshore ").map(|(at, _)| prose[at + 1..].split('`').next().unwrap_or_default());
        found.extend(named.flat_map(|span| calls(span, false)));
    }
    found
}

/// Why the program would not take it.
fn complaint(line: &Line) -> Option<String> {
    let error = Cli::command().try_get_matches_from(&line.words).err()?;
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => String::new(),
    };
    // A command's name alone means the command; a value in capitals, any value.
    let named = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return None,
        ErrorKind::MissingRequiredArgument => true,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => value == value.to_uppercase(),
        _ => false,
    };
    (line.typed || !named).then(|| format!("{}: {error}", line.words.join(" ")))
}

#[test]
fn every_command_line_that_is_written_anywhere_is_taken() {
    let mut all = vec![];
    for place in PLACES {
        files(&Path::new(ROOT).join(place), &mut all);
    }
    let own = Path::new(file!());
    let (mut typed, mut named, mut complaints) = (0, 0, vec![]);
    for path in all.iter().filter(|path| !path.ends_with(own)) {
        let markdown = path.extension().is_some_and(|kind| kind == "md");
        for line in lines(&fs::read_to_string(path).unwrap(), markdown) {
            *(if line.typed { &mut typed } else { &mut named }) += 1;
            complaints.extend(complaint(&line).map(|complaint| format!("{}: {complaint}", path.display())));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(typed > 20 && named > 100, "{typed} typed and {named} named: they are looked for in the wrong way");
}

#[test]
fn lines_are_found_and_judged() {
    let text = "Say `longshore drain`, or:\n```sh\n$ longshore crds | kubectl apply -f -\nkubectl longshore status \\\n  -o json  # now\n\
        cat > longshore.yaml\n```\nand `kubectl\nlongshore status --fast`.\n";
    let found: Vec<_> = lines(text, true).into_iter().map(|line| (line.words.join(" "), line.typed)).collect();
    let wanted = [("longshore crds", true), ("longshore status -o json", true), ("longshore drain", false)];
    assert_eq!(found[..3], wanted.map(|(line, typed)| (line.to_owned(), typed)));
    let judged = |text: &str, typed| complaint(&Line { words: words(text), typed }).is_some();
    assert!(!judged("longshore drain", false) && judged("longshore drain", true));
    assert!(judged("longshore status --fast", false), "{found:?}");
    assert!(found[3..] == [("longshore status --fast".to_owned(), false)]);
    let source = "/// Run `longshore crds | kubectl \\\n///  apply` or `longshore nothing`, \"`\"";
    assert_eq!(lines(source, false).iter().filter(|line| complaint(line).is_some()).count(), 1);
}
