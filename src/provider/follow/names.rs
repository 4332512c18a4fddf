//! What things are called in a target, and how a delegate says what it needs of them. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::kubelet::provider::HostKind;
use crate::provider::places::Places;
use crate::provider::translate::fingerprint::{hex, of_text};

/// Every namespace of every cluster has these, each with its own content. (RootCACertPublisher of kube-controller-manager,
/// and OpenShift's)
const EVERYWHERE: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

/// Which name in the target stands for a name at home.
///
/// It is the same name, by which people recognise it, except where that one cannot be had: where every namespace has an
/// object of its own under it, where a copy of another host has it, and for an optional reference to what home does not
/// have: a stranger's object of that name would be taken for it. Then a suffix that only this host has is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    suffix: String,
    suffixed: BTreeSet<(HostKind, String)>,
    places: Places,
    /// The namespace of home.
    namespace: String,
}

impl Names {
    /// The names for a host, as they are where nothing is in the way.
    pub fn new(host_id: &str) -> Self {
        let mut suffix = hex(of_text(host_id));
        suffix.truncate(8);
        Self { suffix, ..Self::default() }
    }

    /// The same for a namespace of home, whose names are mapped in this way.
    #[must_use]
    pub fn within(self, places: &Places, namespace: &str) -> Self {
        Self { places: places.clone(), namespace: namespace.into(), ..self }
    }

    /// The name where nothing is in the way.
    pub fn plain(&self, home: &str) -> String {
        self.places.name(&self.namespace, home).into_owned()
    }

    /// The name with the suffix.
    pub fn suffixed(&self, home: &str) -> String {
        format!("{}-{}", self.plain(home), self.suffix)
    }

    /// Whether the same name can never be had.
    pub fn is_reserved(kind: HostKind, home: &str) -> bool {
        // What tells of a host's Services is that host's alone.
        kind == HostKind::Service || kind == HostKind::ConfigMap && EVERYWHERE.contains(&home)
    }

    /// From now on, this one has the suffix.
    pub fn suffix(&mut self, kind: HostKind, home: &str) {
        self.suffixed.insert((kind, home.to_owned()));
    }

    /// The name in the target.
    pub fn of(&self, kind: HostKind, home: &str) -> String {
        if Self::is_reserved(kind, home) || self.suffixed.contains(&(kind, home.to_owned())) {
            self.suffixed(home)
        } else {
            self.plain(home)
        }
    }
}

/// What a copy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
    /// Tokens of a service account, in a Secret of one pod's own.
    Token,
    /// The variables of the Services of a namespace, in a ConfigMap.
    Services,
}

impl CopyKind {
    const ALL: [Self; 4] = [Self::ConfigMap, Self::Secret, Self::Token, Self::Services];

    /// What it is in the target.
    pub fn object(self) -> HostKind {
        match self {
            Self::ConfigMap | Self::Services => HostKind::ConfigMap,
            Self::Secret | Self::Token => HostKind::Secret,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Token => "token",
            Self::Services => "services",
        }
    }
}

impl From<HostKind> for CopyKind {
    fn from(kind: HostKind) -> Self {
        match kind {
            HostKind::ConfigMap => Self::ConfigMap,
            HostKind::Secret => Self::Secret,
            HostKind::Service => Self::Services,
        }
    }
}

/// Names a copy in a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace there.
    pub namespace: Arc<str>,
    /// What it is.
    pub kind: CopyKind,
    /// Its name there.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    /// `configmap shop/settings`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.kind.object() == HostKind::Secret { "secret" } else { "configmap" };
        write!(f, "{word} {}/{}", self.namespace, self.name)
    }
}

/// One thing that a delegate needs: the copy, and its name at home (empty for tokens).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is.
    pub kind: CopyKind,
    /// Its name in the target.
    pub name: String,
    /// Its name at home.
    pub home: String,
}

/// Needs as the annotation `FOLLOWS` of a delegate has them: `configmap/settings configmap/kube-root-ca.crt-1234abcd=kube-root-ca.crt`.
pub fn print(needs: &[Need]) -> String {
    let print = |need: &Need| {
        if need.home == need.name || need.kind == CopyKind::Token {
            format!("{}/{}", need.kind.word(), need.name)
        } else {
            format!("{}/{}={}", need.kind.word(), need.name, need.home)
        }
    };
    needs.iter().map(print).collect::<Vec<_>>().join(" ")
}

/// Reads such an annotation; what it does not understand is passed over.
pub fn parse(text: &str) -> Vec<Need> {
    let parse = |word: &str| {
        let (kind, names) = word.split_once('/')?;
        let kind = CopyKind::ALL.into_iter().find(|known| known.word() == kind)?;
        let (name, home) = names.split_once('=').unwrap_or((names, names));
        (!name.is_empty()).then(|| Need { kind, name: name.into(), home: home.into() })
    };
    text.split_ascii_whitespace().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_same_where_it_can_be() {
        let mut names = Names::new("home");
        assert_eq!(names.of(HostKind::ConfigMap, "settings"), "settings");
        assert_eq!(names.of(HostKind::Secret, "kube-root-ca.crt"), "kube-root-ca.crt", "no Secret is called so");
        let root = names.of(HostKind::ConfigMap, "kube-root-ca.crt");
        assert!(root.starts_with("kube-root-ca.crt-") && root.len() == "kube-root-ca.crt-".len() + 8, "{root}");
        names.suffix(HostKind::Secret, "settings");
        assert_eq!(names.of(HostKind::ConfigMap, "settings"), "settings");
        assert_eq!(names.of(HostKind::Secret, "settings"), names.suffixed("settings"));
        assert_ne!(names.suffixed("a"), Names::new("other").suffixed("a"), "two hosts never have the same");
    }

    #[test]
    fn two_namespaces_never_share_a_copy_in_one() {
        let names = Names::new("home");
        let [shop, desk] = ["shop", "desk"].map(|home| names.clone().within(&Places::Single("far".into()), home));
        assert_ne!(shop.of(HostKind::Secret, "settings"), desk.of(HostKind::Secret, "settings"));
        assert_ne!(shop.suffixed("settings"), desk.suffixed("settings"));
        assert_eq!(shop.of(HostKind::Secret, "settings"), shop.plain("settings"));
        let prefixed = names.clone().within(&Places::Prefixed("home-".into()), "shop");
        assert_eq!(prefixed.of(HostKind::Secret, "settings"), "settings", "it has a namespace of its own");
    }

    #[test]
    fn needs_survive_an_annotation() {
        let need = |kind, name: &str, home: &str| Need { kind, name: name.into(), home: home.into() };
        let needs = [
            need(CopyKind::ConfigMap, "a.b", "a.b"),
            need(CopyKind::Secret, "s-1", "s"),
            need(CopyKind::Token, "t", "t"),
            need(CopyKind::Services, "l-1", "l"),
        ];
        assert_eq!(print(&needs), "configmap/a.b secret/s-1=s token/t services/l-1=l");
        assert_eq!(parse(&print(&needs)), needs);
        assert_eq!(parse("novel/x configmap secret/"), []);
    }
}
