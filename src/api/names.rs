//! What Kubernetes accepts as a name, a label and a taint.
//!
//! The API server would refuse most of this too, but only at run time, on the one node, and in its own terms.

/// Node names become a label value on every delegate, and label values end here.
pub const MAX_NODE_NAME: usize = 63;
const MAX_LABEL_PART: usize = 63;
const MAX_LABEL_PREFIX: usize = 253;

/// Why `name` cannot name a resource, if it cannot.
///
/// DNS-1123 subdomain, and at most [`MAX_NODE_NAME`] characters: every target may become a node of its own name.
pub fn check_name(name: &str) -> Result<(), String> {
    check_subdomain(name, MAX_NODE_NAME)
}

/// Why `name` cannot name a namespace, if it cannot: DNS-1123 label.
pub fn check_label_name(name: &str) -> Result<(), String> {
    if name.contains('.') {
        return Err("contains '.'".to_owned());
    }
    check_subdomain(name, MAX_LABEL_PART)
}

/// Why `key` cannot be the key of a label or a taint, if it cannot.
pub fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            check_subdomain(prefix, MAX_LABEL_PREFIX).map_err(|why| format!("its prefix {why}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("has no name".to_owned());
    }
    check_label_part(name)
}

/// Why `value` cannot be the value of a label or a taint, if it cannot.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { check_label_part(value) }
}

/// Why a user may not put the label `key` on a virtual node, if it is reserved.
///
/// The kubelet's own rule (what `--node-labels` and the NodeRestriction admission accept), and beyond it the labels
/// that Longshore writes itself: two writers of one label would undo each other for ever.
pub fn check_unreserved(key: &str) -> Result<(), String> {
    let Some((prefix, _)) = key.split_once('/') else { return Ok(()) };
    let within = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if within("longshore.dev") {
        return Err("is reserved for Longshore".to_owned());
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return Ok(());
    }
    let open = ["kubelet.kubernetes.io", "node.kubernetes.io"].iter().any(|domain| within(domain))
        || ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"].contains(&key);
    if open { Ok(()) } else { Err("is reserved for Kubernetes".to_owned()) }
}

fn check_subdomain(name: &str, longest: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > longest {
        return Err(format!("has {} characters, more than {longest}", name.len()));
    }
    for part in name.split('.') {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if let Some(odd) = part.chars().find(|&c| !alphanumeric(c) && c != '-') {
            return Err(format!("contains {odd:?}"));
        }
        if !part.starts_with(alphanumeric) || !part.ends_with(alphanumeric) {
            return Err("does not begin and end every part with a letter or digit".to_owned());
        }
    }
    Ok(())
}

fn check_label_part(part: &str) -> Result<(), String> {
    if part.len() > MAX_LABEL_PART {
        return Err(format!("has {} characters, more than {MAX_LABEL_PART}", part.len()));
    }
    if let Some(odd) = part.chars().find(|&c| !c.is_ascii_alphanumeric() && !"-_.".contains(c)) {
        return Err(format!("contains {odd:?}"));
    }
    let edge = |c: char| c.is_ascii_alphanumeric();
    if part.starts_with(edge) && part.ends_with(edge) {
        Ok(())
    } else {
        Err("does not begin and end with a letter or digit".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_subdomains_that_fit_a_label() {
        for good in ["a", "east", "east-1", "east.example.com", &"a".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "East", "a_b", "-a", "a-", "a..b", ".a", &"a".repeat(64), "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_and_values_follow_the_label_rules() {
        for good in ["a", "A_b.c", "example.com/zone", "x/1"] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "Ex.com/a", "a b", "-a"] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert_eq!(check_value(""), Ok(()));
        assert!(check_value("no spaces").is_err());
    }

    #[test]
    fn labels_of_kubernetes_and_of_ours_are_reserved() {
        for open in ["zone", "example.com/a", "node.kubernetes.io/instance-type", "topology.kubernetes.io/zone"] {
            assert_eq!(check_unreserved(open), Ok(()), "{open}");
        }
        for reserved in ["kubernetes.io/hostname", "node-role.kubernetes.io/x", "x.k8s.io/a", "longshore.dev/a"] {
            assert!(check_unreserved(reserved).is_err(), "{reserved}");
        }
        // A domain that only ends in the same letters belongs to somebody else.
        assert_eq!(check_unreserved("notkubernetes.io/a"), Ok(()));
    }
}
