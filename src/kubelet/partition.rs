//! What becomes of pods whose side of the provider does not answer any more.
//!
//! Either they wait, however long, or they are given up after a while, so that their controllers start others elsewhere.
//! That is for the user to choose: for everything, for a namespace, or for a pod.

use std::time::Duration;

/// Annotation of a pod or a namespace: `Wait`, `Replace`, or `Replace after 10m`.
pub const PARTITION: &str = "longshore.dev/partition";

/// Condition of a pod that is being given up, as the kubelet and the eviction API set it.
pub const DISRUPTION: &str = "DisruptionTarget";

/// The reason of all that is said about a side that does not answer.
pub const UNREACHABLE: &str = "TargetUnreachable";

/// How long `Replace` waits if it is not said: what Kubernetes grants the pods of a node that does not answer.
pub const DEFAULT_AFTER: Duration = Duration::from_secs(300);

/// What becomes of a pod whose side does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is left as it is.
    #[default]
    Wait,
    /// It is failed and removed when the side has been silent for this long.
    Replace(Duration),
}

/// Reads the annotation's value; `otherwise` has the time that a bare `Replace` takes.
///
/// # Errors
/// A sentence for people.
pub fn parse(value: &str, otherwise: Policy) -> Result<Policy, String> {
    let words: Vec<&str> = value.split_whitespace().collect();
    match words.as_slice() {
        ["Wait"] => Ok(Policy::Wait),
        ["Replace"] => Ok(match otherwise {
            Policy::Wait => Policy::Replace(DEFAULT_AFTER),
            replace @ Policy::Replace(_) => replace,
        }),
        ["Replace", "after", time] => duration(time).map(Policy::Replace).ok_or_else(|| {
            format!("annotation {PARTITION}: `{time}` is no time; write it like 90s, 10m or 1h, at least 10s")
        }),
        _ => Err(format!("annotation {PARTITION}: `{value}` is neither Wait, nor Replace, nor Replace after a time")),
    }
}

/// `90s`, `10m`, `1h`; at least ten seconds, less than a short break takes to be noticed.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u32>().ok()?.checked_mul(factor)?;
    (seconds >= 10 && !number.starts_with('+')).then(|| Duration::from_secs(seconds.into()))
}

/// The policy of a pod: its own annotation, else its namespace's, else that of the whole. A value that cannot be read
/// counts as Wait, the one that destroys nothing.
pub fn policy(pod: Option<&str>, namespace: Option<&str>, whole: Policy) -> Policy {
    match pod.or(namespace) {
        Some(value) => parse(value, whole).unwrap_or(Policy::Wait),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_can_be_written_in_three_ways() {
        let whole = Policy::Replace(Duration::from_secs(77));
        assert_eq!(parse("Wait", whole), Ok(Policy::Wait));
        assert_eq!(parse(" Replace ", whole), Ok(whole));
        assert_eq!(parse("Replace", Policy::Wait), Ok(Policy::Replace(DEFAULT_AFTER)));
        assert_eq!(parse("Replace after 2m", whole), Ok(Policy::Replace(Duration::from_secs(120))));
    }

    #[test]
    fn nonsense_says_how_to_write_it() {
        for value in ["", "wait", "Replace after", "Replace after 5", "Replace after 9s", "Replace after +20s", "x y"] {
            assert!(parse(value, Policy::Wait).unwrap_err().contains(PARTITION), "{value}");
        }
    }

    #[test]
    fn the_nearest_word_counts() {
        let whole = Policy::Replace(Duration::from_secs(60));
        assert_eq!(policy(Some("Wait"), Some("Replace"), whole), Policy::Wait);
        assert_eq!(policy(None, Some("Replace after 30s"), Policy::Wait), Policy::Replace(Duration::from_secs(30)));
        assert_eq!(policy(None, None, whole), whole);
        assert_eq!(policy(Some("nonsense"), None, whole), Policy::Wait, "nothing is destroyed by mistake");
    }
}
