//! That docs/troubleshooting.md knows every reason that the program gives, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where reasons are given.
const PLACES: [&str; 4] = ["src/kubelet", "src/provider", "src/run", "src/admission"];

/// Words of Kubernetes in the same spelling: kinds, types of conditions, values of fields; and reasons that a kubelet gives just
/// so, of which any book tells.
const OTHERS: &[&str] = &[
    "AdmissionReview",
    "ConfigMap",
    "ContainerCreating",
    "ContainerStatusUnknown",
    "ContainersNotInitialized",
    "ContainersNotReady",
    "ContainersReady",
    "DaemonSet",
    "DiskPressure",
    "DisruptionTarget",
    "DoesNotExist",
    "ExternalName",
    "IfPossible",
    "InternalIP",
    "KubeletConfiguration",
    "LocalAndRemote",
    "MemoryPressure",
    "MountOption",
    "MutatingWebhookConfiguration",
    "NamespaceTerminating",
    "NoExecute",
    "NoSchedule",
    "NotIn",
    "NotRequired",
    "OnFailure",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodCompleted",
    "PodFailed",
    "PodInitializing",
    "PodList",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "ReadinessGatesNotReady",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ServiceUnavailable",
    "VirtualNode",
    "WaitForFirstConsumer",
];

/// Beginnings of reasons, which are compared with.
const BEGINNINGS: &[&str] = &["RemoteNode"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let for_tests = name.starts_with("tests") || name.starts_with("model") || name.starts_with("fakes");
        match path.is_dir() {
            _ if for_tests => {}
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// The string literals of a source before its tests that are one word in letters.
fn words(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let literals = code.split('"').filter(|text| text.starts_with(|c: char| c.is_ascii_uppercase()));
    literals.filter(|text| text.chars().all(|c| c.is_ascii_alphabetic())).map(ToOwned::to_owned).collect()
}

/// `TargetRefused`, but not `Pod`: of several words, each with a small letter.
fn is_compound(word: &str) -> bool {
    let capitals = word.chars().filter(char::is_ascii_uppercase).count();
    capitals > 1 && word.chars().nth(1).is_some_and(|c| c.is_ascii_lowercase())
}

fn given() -> BTreeSet<String> {
    let mut files = vec![];
    for place in PLACES {
        sources(&Path::new(ROOT).join(place), &mut files);
    }
    assert!(files.len() > 50, "{files:?}");
    files.iter().flat_map(|file| words(&fs::read_to_string(file).unwrap())).collect()
}

/// The reasons of the page: words of code in the first column of its tables.
fn told() -> BTreeSet<String> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>());
    words.filter(|word| word.chars().all(|c| c.is_ascii_alphabetic())).collect()
}

#[test]
fn every_reason_that_is_given_is_told() {
    let told = told();
    let known =
        |word: &&String| told.contains(*word) || OTHERS.contains(&word.as_str()) || BEGINNINGS.contains(&word.as_str());
    let given = given();
    let missing: Vec<_> = given.iter().filter(|word| is_compound(word) && !known(word)).collect();
    assert!(
        missing.is_empty(),
        "tell in docs/troubleshooting.md what to do, or list as a word of Kubernetes: {missing:?}"
    );
}

#[test]
fn every_reason_that_is_told_is_given() {
    let given = given();
    let (told, others): (_, Vec<_>) = (told(), OTHERS.iter().filter(|word| !given.contains(**word)).collect());
    assert!(told.len() > 40, "{told:?}");
    let invented: Vec<_> = told.iter().filter(|word| !given.contains(*word)).collect();
    assert!(invented.is_empty(), "no code gives these reasons: {invented:?}");
    assert!(others.is_empty(), "nobody uses these words any more: {others:?}");
}
