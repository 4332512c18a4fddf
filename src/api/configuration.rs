//! The configuration file: targets and virtual nodes, read and checked as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::API_VERSION;
use super::decode::decode;
use super::document::{self, Node, Value};
use super::field::{FieldPath, Finding};
use super::names;
use super::target::TargetSpec;
use super::virtual_node::VirtualNodeSpec;

/// Everything that a configuration file declares, checked.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The targets, in the order of the file.
    pub targets: Vec<Declared<TargetSpec>>,
    /// The virtual nodes, those of targets that none names at the end. Each names targets that exist.
    pub nodes: Vec<Declared<VirtualNodeSpec>>,
}

/// A resource, its name, and where it was declared.
#[derive(Clone, Debug)]
pub struct Declared<S> {
    /// `metadata.name`.
    pub name: String,
    /// `spec`, with paths resolved.
    pub spec: S,
    origin: Origin,
}

impl<S> Declared<S> {
    /// One that the host has, whose spec was read; `None` if the resource is nothing that a file could hold.
    pub(crate) fn of_api(resource: &serde_json::Value, spec: S) -> Option<Self> {
        // JSON is YAML.
        let root = document::parse(&resource.to_string()).ok()?.into_iter().next()?;
        let origin = Origin::new(Path::new("the host"), 1, root);
        let name = resource.pointer("/metadata/name")?.as_str()?.to_owned();
        Some(Self { name, spec, origin })
    }

    /// Says of something found later (a kubeconfig that is missing, say) where the user wrote it.
    pub fn problem(&self, finding: Finding) -> Problem {
        self.origin.problem(finding)
    }
}

/// The document that a resource was read from.
#[derive(Clone, Debug)]
struct Origin {
    file: PathBuf,
    number: usize,
    title: String,
    root: Node,
}

impl Origin {
    fn new(file: &Path, number: usize, root: Node) -> Self {
        let kind = root.text(&FieldPath::of("kind")).unwrap_or("resource");
        let title = match root.text(&FieldPath::of("metadata.name")) {
            Some(name) => format!("{kind} `{name}`"),
            None => format!("{kind} without a name"),
        };
        Self { file: file.to_owned(), number, title, root }
    }

    fn problem(&self, finding: Finding) -> Problem {
        let place = self.root.place_of(&finding.field);
        Problem {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            document: self.number,
            resource: self.title.clone(),
            finding,
        }
    }
}

/// Something wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// The document within the file, from 1.
    pub document: usize,
    /// Kind and name of the resource.
    pub resource: String,
    /// What is wrong.
    pub finding: Finding,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, document, resource, finding, .. } = self;
        write!(f, "{}:{line}:{column}: document {document}, {resource}: ", self.file.display())?;
        if !finding.field.is_root() {
            write!(f, "{}: ", finding.field)?;
        }
        write!(f, "{}; {}", finding.message, finding.remedy)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file could not be read.
    #[error("failed to read the configuration file {}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML, so nothing in it could be checked.
    #[error("failed to parse the configuration file as YAML; correct it first:\n  {}:{line}:{column}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// Why, in words for users: the library's own error advises on its options.
        reason: String,
    },
    /// The file declares nothing.
    #[error("failed to find a resource in the configuration file {}; declare at least one Target of {API_VERSION}", path.display())]
    Find {
        /// The file.
        path: PathBuf,
    },
    /// Something is wrong with the resources.
    #[error("failed to accept the configuration:{}", list(problems))]
    Accept {
        /// All that was found, in the order of the file.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |text, problem| text + "\n  " + &problem.to_string())
}

/// Reads and checks the configuration file at `path`.
pub fn load(path: &Path) -> Result<Configuration, ConfigErrors> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigErrors::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Checks the configuration `text` that `path` holds.
pub fn parse(path: &Path, text: &str) -> Result<Configuration, ConfigErrors> {
    let documents = document::parse(text).map_err(|error| not_yaml(path, &error))?;
    if documents.is_empty() {
        return Err(ConfigErrors::Find { path: path.to_owned() });
    }
    let mut reader = Reader::default();
    for (index, root) in documents.into_iter().enumerate() {
        reader.read(Origin::new(path, index + 1, root));
    }
    reader.finish()
}

fn not_yaml(path: &Path, error: &serde_saphyr::Error) -> ConfigErrors {
    let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
    let reason = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let place = format!(" at line {line}, column {column}");
    let reason = reason.strip_suffix(&place).unwrap_or(&reason).to_owned();
    ConfigErrors::Parse { path: path.to_owned(), line, column, reason }
}

#[derive(Default)]
struct Reader {
    targets: Vec<Declared<TargetSpec>>,
    nodes: Vec<Declared<VirtualNodeSpec>>,
    /// Kind and name of everything declared, good or bad: a reference to a bad target does not dangle.
    seen: BTreeMap<(String, String), usize>,
    problems: Vec<Problem>,
}

impl Reader {
    fn read(&mut self, origin: Origin) {
        match identify(&origin.root) {
            Err(findings) => self.problems.extend(findings.into_iter().map(|finding| origin.problem(finding))),
            Ok(kind) => {
                self.note(kind, &origin);
                match kind {
                    Kind::Target => {
                        if let Some(mut target) = self.declare(origin, TargetSpec::findings) {
                            let folder = target.origin.file.parent().unwrap_or(Path::new(""));
                            if let Some(file) = &mut target.spec.kubeconfig.file {
                                *file = folder.join(&file);
                            }
                            self.targets.push(target);
                        }
                    }
                    Kind::VirtualNode => {
                        let node = self.declare(origin, VirtualNodeSpec::findings);
                        self.nodes.extend(node);
                    }
                }
            }
        }
    }

    /// Remembers that the document declares its name, and complains if an earlier one does.
    fn note(&mut self, kind: Kind, origin: &Origin) {
        let path = FieldPath::of("metadata.name");
        let Some(name) = origin.root.text(&path) else { return };
        let first = *self.seen.entry((kind.name().to_owned(), name.to_owned())).or_insert(origin.number);
        if first != origin.number {
            let message = format!("document {first} declares a {} of this name already", kind.name());
            let finding = Finding::new(path, message, "rename or remove one of them");
            self.problems.push(origin.problem(finding));
        }
    }

    fn declare<S: DeserializeOwned>(&mut self, origin: Origin, check: fn(&S) -> Vec<Finding>) -> Option<Declared<S>> {
        let (manifest, mut findings) = decode::<Manifest<S>>(&origin.root);
        if let Some(manifest) = &manifest {
            let mut later = check(&manifest.spec);
            if let Err(why) = names::check_name(&manifest.metadata.name) {
                later.push(Finding::new(
                    FieldPath::of("metadata.name"),
                    format!("`{}` {why}", manifest.metadata.name),
                    format!("use lower-case letters, digits, `-` and `.`, at most {}", names::MAX_NODE_NAME),
                ));
            }
            // What was taken out while decoding must not count as missing now.
            later.retain(|late| !findings.iter().any(|early| late.field.contains(&early.field)));
            findings.extend(later);
        }
        if findings.is_empty() {
            return manifest.map(|Manifest { metadata, spec, .. }| Declared { name: metadata.name, spec, origin });
        }
        self.problems.extend(findings.into_iter().map(|finding| origin.problem(finding)));
        None
    }

    fn finish(mut self) -> Result<Configuration, ConfigErrors> {
        self.check_references();
        self.check_pairs();
        self.check_ports();
        self.complete_nodes();
        if self.problems.is_empty() {
            return Ok(Configuration { targets: self.targets, nodes: self.nodes });
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(ConfigErrors::Accept { problems: self.problems })
    }

    fn check_references(&mut self) {
        let known = self.names(Kind::Target);
        for node in &self.nodes {
            for (index, target) in node.spec.targets.iter().enumerate() {
                if known.contains(&target.name) {
                    continue;
                }
                let remedy = match known.as_slice() {
                    [] => "declare it in this file".to_owned(),
                    names => format!("declare it in this file, or name one of: {}", names.join(", ")),
                };
                let path = FieldPath::of("spec.targets").index(index).key("name");
                let finding = Finding::new(path, format!("there is no Target `{}`", target.name), remedy);
                self.problems.push(node.problem(finding));
            }
        }
    }

    fn check_pairs(&mut self) {
        for node in &self.nodes {
            let named = |target: &&Declared<TargetSpec>| node.spec.targets.iter().any(|one| one.name == target.name);
            let clashes = self.targets.iter().filter(named).filter_map(|one| node.spec.clash(&one.name, &one.spec));
            self.problems.extend(clashes.map(|finding| node.problem(finding)));
        }
    }

    fn check_ports(&mut self) {
        let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
        for node in &self.nodes {
            let Some(port) = node.spec.port else { continue };
            let first = *taken.entry(port).or_insert(&node.name);
            if first != node.name {
                let message = format!("{port} is the port of VirtualNode `{first}` already");
                let remedy = "give each node its own, or remove the field to have one chosen";
                self.problems.push(node.problem(Finding::new(FieldPath::of("spec.port"), message, remedy)));
            }
        }
    }

    /// Gives every target that no virtual node names one of its own name.
    fn complete_nodes(&mut self) {
        for target in &self.targets {
            let named = |node: &Declared<VirtualNodeSpec>| node.spec.targets.iter().any(|t| t.name == target.name);
            if self.nodes.iter().any(named) {
                continue;
            }
            if self.seen.contains_key(&(Kind::VirtualNode.name().to_owned(), target.name.clone())) {
                // A declaration of this name that could not be read may well have named this target.
                if self.nodes.iter().any(|node| node.name == target.name) {
                    let message = "no VirtualNode names it, and the one of its name stands for another target";
                    let remedy = "declare a VirtualNode for it, or rename one of the two";
                    let finding = Finding::new(FieldPath::of("metadata.name"), message, remedy);
                    self.problems.push(target.problem(finding));
                }
                continue;
            }
            let (name, spec) = (target.name.clone(), VirtualNodeSpec::for_target(&target.name));
            self.nodes.push(Declared { name, spec, origin: target.origin.clone() });
        }
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        self.seen.keys().filter(|(of, _)| of == kind.name()).map(|(_, name)| name.clone()).collect()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Target,
    VirtualNode,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Target => "Target",
            Self::VirtualNode => "VirtualNode",
        }
    }
}

/// Which resource a document is about, before anything else in it can mean something.
fn identify(root: &Node) -> Result<Kind, Vec<Finding>> {
    if !matches!(root.value, Value::Map(_)) {
        let remedy = "begin each document with `apiVersion` and `kind`";
        return Err(vec![Finding::new(FieldPath::default(), "is not a mapping", remedy)]);
    }
    let mut findings = Vec::new();
    let mut word = |field: &str, valid: &[&str]| {
        let found = root.text(&FieldPath::of(field));
        if found.is_some_and(|found| valid.contains(&found)) {
            return found;
        }
        let message = match (found, root.get(field)) {
            (Some(found), _) => format!("`{found}` is not supported by this version"),
            (None, Some(_)) => "is not a string".to_owned(),
            (None, None) => "is missing".to_owned(),
        };
        findings.push(Finding::new(FieldPath::of(field), message, format!("use {}", valid.join(" or "))));
        None
    };
    let (version, kind) = (word("apiVersion", &[API_VERSION]), word("kind", &["Target", "VirtualNode"]));
    match (version, kind) {
        (Some(_), Some("Target")) => Ok(Kind::Target),
        (Some(_), Some(_)) => Ok(Kind::VirtualNode),
        _ => Err(findings),
    }
}

/// A resource as the API server would take it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[cfg(test)]
mod tests;
