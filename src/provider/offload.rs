//! What pods and namespaces say of where they want to be. Pure.

use std::fmt;

use super::names;

/// What the annotation or label [`names::OFFLOAD`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `false`: at home.
    Home,
    /// `true`: on any virtual node.
    Anywhere,
    /// On these virtual nodes, or in these targets, in their order.
    Named(Vec<String>),
}

impl Wish {
    /// Reads it: `true`, `false`, or names that are separated by commas, or by underscores, since a label has no commas.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence that begins with its key.
    pub fn read(text: &str) -> Result<Self, String> {
        match text.trim() {
            "true" => return Ok(Self::Anywhere),
            "false" => return Ok(Self::Home),
            _ => {}
        }
        let mut names: Vec<String> = vec![];
        for name in text.split([',', '_']).map(str::trim).filter(|name| !name.is_empty()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        if names.is_empty() {
            return Err(format!("is {text:?}; write true, false, or names of targets or virtual nodes"));
        }
        if let Some(odd) = names.iter().find(|name| ["true", "false"].contains(&name.as_str())) {
            return Err(format!("has {odd:?} among names; write either"));
        }
        Ok(Self::Named(names))
    }

    /// Whether a pod on the virtual node `node` may be in its target `target`.
    ///
    /// At home, or anywhere, nothing is said of targets: whoever put the pod on the node may know why. Who names a virtual
    /// node means all of its targets.
    pub fn allows(&self, node: &str, target: &str) -> bool {
        match self {
            Self::Home | Self::Anywhere => true,
            Self::Named(names) => names.iter().any(|name| name == node || name == target),
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("false"),
            Self::Anywhere => f.write_str("true"),
            Self::Named(names) => f.write_str(&names.join(",")),
        }
    }
}

/// How pods are offloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Local,
    /// To virtual nodes and nowhere else.
    #[default]
    Remote,
    /// At home as long as there is a place.
    LocalAndRemote,
}

impl Mode {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence that begins with its key.
    pub fn read(text: &str) -> Result<Self, String> {
        match text.trim() {
            "Local" => Ok(Self::Local),
            "Remote" => Ok(Self::Remote),
            "LocalAndRemote" => Ok(Self::LocalAndRemote),
            _ => Err(format!("is {text:?}; write Local, Remote or LocalAndRemote")),
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Remote => "Remote",
            Self::LocalAndRemote => "LocalAndRemote",
        }
    }
}

/// Why a pod with this annotation must not be in a target of a node, if so.
pub fn objection(annotation: Option<&str>, node: &str, target: &str) -> Option<String> {
    // One that makes no sense says nothing of targets.
    let wish = Wish::read(annotation?).ok()?;
    (!wish.allows(node, target)).then(|| format!("the pod's annotation {} names {wish}", names::OFFLOAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_from_annotations_and_labels() {
        let named = |names: &[&str]| Ok(Wish::Named(names.iter().map(|name| (*name).to_owned()).collect()));
        assert_eq!(Wish::read("true"), Ok(Wish::Anywhere));
        assert_eq!(Wish::read(" false "), Ok(Wish::Home));
        assert_eq!(Wish::read("east"), named(&["east"]));
        assert_eq!(Wish::read("west, east,west,"), named(&["west", "east"]));
        assert_eq!(Wish::read("east_west.2"), named(&["east", "west.2"]), "as a label has to write it");
        assert!(Wish::read("").unwrap_err().contains("write true, false, or names"));
        assert!(Wish::read(" ,_").is_err());
        assert!(Wish::read("east,true").unwrap_err().contains("\"true\" among names"));
    }

    #[test]
    fn modes_are_read() {
        for mode in [Mode::Local, Mode::Remote, Mode::LocalAndRemote] {
            assert_eq!(Mode::read(mode.name()), Ok(mode));
        }
        assert!(Mode::read("remote").unwrap_err().contains("write Local, Remote or LocalAndRemote"));
    }

    #[test]
    fn only_a_list_of_names_objects_to_a_target() {
        assert_eq!(objection(None, "both", "east"), None);
        assert_eq!(objection(Some("true"), "both", "east"), None);
        assert_eq!(objection(Some("false"), "both", "east"), None, "it was put there by hand");
        assert_eq!(objection(Some(",,"), "both", "east"), None);
        assert_eq!(objection(Some("west,east"), "both", "east"), None);
        assert_eq!(objection(Some("both"), "both", "east"), None);
        let why = objection(Some("west"), "both", "east").unwrap();
        assert!(why.contains("longshore.dev/offload names west"), "{why}");
    }
}
