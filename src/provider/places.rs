//! PURE  where in a target a pod of home goes, and under which name.

use std::borrow::Cow;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Names of pods end here: DNS-1123 subdomain.
const MAX_NAME: usize = 253;

/// So many hexadecimal digits tell two names apart.
const DIGITS: usize = 10;

/// From home's namespaces and names to the target's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// The same.
    #[default]
    Same,
    /// Namespaces have this before their names. One that would be longer than 63 characters is cut, and ends in a digest of
    /// the whole.
    Prefixed(String),
    /// This namespace for all. Names get a suffix made of the namespace, so that no two meet.
    Single(String),
}

impl Places {
    /// The namespace in the target for one of home.
    pub fn namespace<'a>(&'a self, home: &'a str) -> Cow<'a, str> {
        match self {
            Self::Same => home.into(),
            Self::Prefixed(prefix) => fitting(format!("{prefix}{home}"), 63).into(),
            Self::Single(only) => only.into(),
        }
    }

    /// The name in the target for a pod of home.
    pub fn name<'a>(&self, namespace: &str, name: &'a str) -> Cow<'a, str> {
        match self {
            Self::Same | Self::Prefixed(_) => name.into(),
            Self::Single(_) => {
                let suffix = digest(namespace);
                if name.len() + 1 + suffix.len() <= MAX_NAME {
                    format!("{name}-{suffix}").into()
                } else {
                    fitting(format!("{name}-{namespace}"), MAX_NAME).into()
                }
            }
        }
    }
}

/// A name that is too long is cut, and ends in a digest of the whole.
fn fitting(name: String, longest: usize) -> String {
    if name.len() <= longest {
        return name;
    }
    // Names of Kubernetes are ASCII.
    let head: String = name.chars().take(longest - DIGITS - 1).collect();
    format!("{}-{}", head.trim_end_matches(['-', '.']), digest(&name))
}

fn digest(text: &str) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(text).iter().take(DIGITS / 2) {
        _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_valid_and_apart() {
        let prefixed = Places::Prefixed("home-".into());
        assert_eq!(prefixed.namespace("shop"), "home-shop");
        let long = ["a", "b"].map(|last| prefixed.namespace(&format!("{}{last}", "n".repeat(62))).into_owned());
        assert!(long.iter().all(|name| name.len() <= 63) && long[0] != long[1], "{long:?}");

        let single = Places::Single("far".into());
        assert_eq!((single.namespace("shop"), single.namespace("desk")), ("far".into(), "far".into()));
        let names = [("shop", "web"), ("desk", "web"), ("shop", "web2")].map(|(space, name)| single.name(space, name));
        assert!(names[0].starts_with("web-") && names[0] != names[1] && names[0] != names[2], "{names:?}");
        assert_eq!(single.name("shop", "web"), names[0], "always the same");
        let long = format!("{}.", "p".repeat(252));
        assert!(single.name("shop", &long).len() <= 253);
        assert_eq!(Places::Same.name("shop", "web"), "web");
    }
}
