//! PURE  what is known of a target or a node -> its conditions.

use k8s_openapi::jiff::Timestamp;

use crate::api::diagnosis::{Trouble, Version};
use crate::api::status::{Condition, Verdict};
use crate::kubelet::contact::Contact;
use crate::kubelet::provider::Obstacle;

/// The oldest minor version of Kubernetes that a target may have.
const OLDEST: u32 = 29;

/// Whether what is declared can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// It can.
    Good,
    /// It cannot, in a word and a sentence.
    Bad(&'static str, String),
}

/// What is known of a target from those who serve it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) contact: Contact,
    pub(super) trouble: Option<Obstacle>,
    pub(super) diagnosis: Option<Result<Version, Complaint>>,
    /// When the client certificate ends, in seconds since 1970.
    pub(super) certificate_end: Option<i64>,
}

/// A [`Trouble`] in a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl From<Trouble> for Complaint {
    fn from(trouble: Trouble) -> Self {
        let reason = match &trouble {
            Trouble::Unreachable { .. } => "Unreachable",
            Trouble::Unauthorized { .. } => "Unauthorized",
            Trouble::Forbidden { .. } => "Forbidden",
            Trouble::Unexpected { .. } => "UnexpectedAnswer",
        };
        Self { reason, message: trouble.to_string() }
    }
}

/// The conditions of a target; `view` is there where it is served, and `now` in seconds since 1970.
pub(super) fn target(acceptance: &Acceptance, view: Option<&View>, now: i64) -> Vec<Condition> {
    let accepted = accepted(acceptance, view.is_some());
    let Some(view) = view else {
        let (reason, message) = match acceptance {
            Acceptance::Good => ("NotServed", "no virtual node serves it yet".to_owned()),
            Acceptance::Bad(reason, message) => (*reason, message.clone()),
        };
        return vec![accepted, Condition::new("Ready", Verdict::False, reason, message)];
    };
    let reachable = reachable(view);
    let authorized = authorized(view, now);
    let ready = match [&reachable, &authorized].into_iter().find(|one| !one.holds()) {
        Some(bad) if bad.status == "Unknown" => {
            Condition::new("Ready", Verdict::Unknown, &bad.reason, bad.message.clone())
        }
        Some(bad) => Condition::new("Ready", Verdict::False, &bad.reason, bad.message.clone()),
        None => match (outdated(view), &view.trouble) {
            (Some(message), _) => Condition::new("Ready", Verdict::False, "VersionTooOld", message),
            (None, Some(trouble)) => Condition::new("Ready", Verdict::False, &trouble.reason, trouble.message.clone()),
            (None, None) => Condition::new("Ready", Verdict::True, "Ready", ""),
        },
    };
    vec![accepted, reachable, authorized, ready]
}

fn accepted(acceptance: &Acceptance, served: bool) -> Condition {
    match acceptance {
        Acceptance::Good => Condition::new("Accepted", Verdict::True, "Accepted", ""),
        Acceptance::Bad(reason, message) if served => {
            let message = format!("{message}. What was accepted last stays in use");
            Condition::new("Accepted", Verdict::False, reason, message)
        }
        Acceptance::Bad(reason, message) => Condition::new("Accepted", Verdict::False, reason, message.clone()),
    }
}

fn reachable(view: &View) -> Condition {
    let explained = |message: &String| match &view.diagnosis {
        Some(Err(complaint)) if complaint.reason == "Unreachable" => complaint.message.clone(),
        _ => message.clone(),
    };
    let (verdict, reason, message) = match &view.contact {
        Contact::Answers => (Verdict::True, "Answers", String::new()),
        Contact::Unheard => (Verdict::Unknown, "Connecting", "it has not been asked yet".to_owned()),
        Contact::Doubtful(message) | Contact::Silent { message, .. } => {
            (Verdict::False, "Unreachable", explained(message))
        }
    };
    Condition::new("Reachable", verdict, reason, message)
}

fn authorized(view: &View, now: i64) -> Condition {
    if let Some(end) = view.certificate_end.filter(|&end| end <= now) {
        let end = Timestamp::from_second(end).map(|end| end.to_string()).unwrap_or_default();
        let message = format!("the client certificate in the kubeconfig ended at {end}; put a new one there");
        return Condition::new("Authorized", Verdict::False, "CertificateExpired", message);
    }
    match &view.diagnosis {
        Some(Ok(_)) => Condition::new("Authorized", Verdict::True, "Granted", ""),
        Some(Err(complaint)) if complaint.reason != "Unreachable" => {
            Condition::new("Authorized", Verdict::False, complaint.reason, complaint.message.clone())
        }
        _ => Condition::new("Authorized", Verdict::Unknown, "NotAsked", "it has not been asked yet"),
    }
}

fn outdated(view: &View) -> Option<String> {
    let Some(Ok(Version(version))) = &view.diagnosis else { return None };
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else { return None };
    ((major, minor) < (1, OLDEST)).then(|| format!("it is {version}; use at least v1.{OLDEST}"))
}

/// The conditions of a virtual node; `problem` is what is wrong with what it refers to, and the view is there where it is
/// kept.
pub(super) fn node(
    acceptance: &Acceptance,
    problem: Option<&String>,
    view: Option<(&Contact, Option<&Obstacle>)>,
) -> Vec<Condition> {
    let acceptance = match (acceptance, problem) {
        (Acceptance::Good, Some(problem)) => &Acceptance::Bad("TargetMissing", problem.clone()),
        (acceptance, _) => acceptance,
    };
    let ready = match (view, acceptance) {
        (None, Acceptance::Bad(reason, message)) => Condition::new("Ready", Verdict::False, reason, message.clone()),
        (None, Acceptance::Good) => {
            Condition::new("Ready", Verdict::False, "NoTarget", "none of its targets can be used; see their conditions")
        }
        (Some((Contact::Unheard, _)), _) => Condition::new("Ready", Verdict::Unknown, "Connecting", ""),
        (Some((Contact::Silent { message, .. } | Contact::Doubtful(message), _)), _) => {
            Condition::new("Ready", Verdict::False, "Unreachable", message.clone())
        }
        (Some((Contact::Answers, Some(trouble))), _) => {
            Condition::new("Ready", Verdict::False, &trouble.reason, trouble.message.clone())
        }
        (Some((Contact::Answers, None)), _) => Condition::new("Ready", Verdict::True, "Ready", ""),
    };
    vec![accepted(acceptance, view.is_some()), ready]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(contact: Contact, diagnosis: Option<Result<Version, Complaint>>) -> View {
        View { contact, trouble: None, diagnosis, certificate_end: None }
    }

    fn ready(conditions: &[Condition]) -> (String, String) {
        let ready = conditions.iter().find(|one| one.kind == "Ready").unwrap();
        (ready.status.clone(), ready.reason.clone())
    }

    #[expect(clippy::unnecessary_wraps, reason = "as a view has it")]
    fn granted(version: &str) -> Option<Result<Version, Complaint>> {
        Some(Ok(Version(version.into())))
    }

    #[test]
    fn ready_says_the_first_thing_that_is_wrong() {
        let is = |view: &View| ready(&target(&Acceptance::Good, Some(view), 100));
        let pair = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
        assert_eq!(is(&view(Contact::Answers, granted("v1.35.4"))), pair("True", "Ready"));
        assert_eq!(is(&view(Contact::Unheard, None)), pair("Unknown", "Connecting"));
        assert_eq!(is(&view(Contact::Doubtful("refused".into()), None)), pair("False", "Unreachable"));
        assert_eq!(is(&view(Contact::Answers, granted("v1.19.0-gke.1"))), pair("False", "VersionTooOld"));
        let missing = Complaint { reason: "Forbidden", message: "missing: create pods".into() };
        assert_eq!(is(&view(Contact::Answers, Some(Err(missing)))), pair("False", "Forbidden"));
        let expired = View { certificate_end: Some(99), ..view(Contact::Answers, granted("v1.35.4")) };
        assert_eq!(is(&expired), pair("False", "CertificateExpired"));
    }

    #[test]
    fn what_was_accepted_last_stays_in_use() {
        let bad = Acceptance::Bad("InvalidKubeconfig", "no".into());
        let conditions = target(&bad, Some(&view(Contact::Answers, granted("v1.35.4"))), 100);
        assert_eq!(ready(&conditions).0, "True");
        assert!(!conditions[0].holds() && conditions[0].message.contains("stays in use"));
        assert_eq!(ready(&target(&bad, None, 100)), ("False".to_owned(), "InvalidKubeconfig".to_owned()));
    }

    #[test]
    fn a_node_without_targets_says_so() {
        let conditions = node(&Acceptance::Good, Some(&"there is no Target east".to_owned()), None);
        assert_eq!(ready(&conditions), ("False".to_owned(), "TargetMissing".to_owned()));
        assert_eq!(ready(&node(&Acceptance::Good, None, None)).1, "NoTarget");
        assert_eq!(ready(&node(&Acceptance::Good, None, Some((&Contact::Answers, None)))).0, "True");
    }
}
