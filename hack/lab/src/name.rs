//! Names of clusters.

use std::{fmt, str::FromStr};

/// The longest name: `ls-` and the name must fit into the 15 characters of a network interface.
const MAX_LENGTH: usize = 10;

/// A valid cluster name: a lower-case letter, then up to nine lower-case letters, digits or dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// A name that cannot be a cluster's.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} cannot name a cluster: use a lower-case letter, then up to {limit} lower-case letters, digits or dashes, and no dash at the end",
    limit = MAX_LENGTH - 1
)]
pub struct InvalidName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.len() <= MAX_LENGTH
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if valid { Ok(Self(name.to_owned())) } else { Err(InvalidName(name.to_owned())) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_dns_labels_are_names() {
        for name in ["host", "east", "a", "east-2", "abcdefghij"] {
            assert_eq!(name.parse::<ClusterName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_would_break_an_interface_or_a_path_is_refused() {
        for name in ["", "East", "2nd", "-a", "a-", "a.b", "a/b", "..", "abcdefghijk", "é"] {
            let error = name.parse::<ClusterName>().unwrap_err().to_string();
            assert!(error.contains("cannot name a cluster"), "{error}");
        }
    }
}
