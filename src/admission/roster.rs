//! Where pods can be sent to. Pure.

use crate::api::virtual_node::Taint;

/// All virtual nodes that this Longshore serves, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster(Vec<Place>);

/// A virtual node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// The names of its targets.
    pub targets: Vec<String>,
    /// Those of its targets where pods get devices that they claim.
    pub devices: Vec<String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

impl Roster {
    /// A roster of these.
    pub fn new(mut places: Vec<Place>) -> Self {
        places.sort_by(|a, b| a.node.cmp(&b.node));
        Self(places)
    }

    /// All of them, in the order of their names.
    pub fn places(&self) -> &[Place] {
        &self.0
    }

    /// The virtual nodes that are meant by names, in the order of theirs, and the names that mean none. A name means the virtual
    /// node that has it, else every one that stands for the target of that name.
    pub fn find<'a>(&self, names: &'a [String]) -> (Vec<&Place>, Vec<&'a str>) {
        let (mut found, mut unknown) = (vec![false; self.0.len()], vec![]);
        for name in names {
            let own = self.0.iter().position(|place| place.node == *name);
            let meant: Vec<usize> = match own {
                Some(own) => vec![own],
                None => (0..self.0.len()).filter(|i| self.0[*i].targets.contains(name)).collect(),
            };
            if meant.is_empty() {
                unknown.push(name.as_str());
            }
            for place in meant {
                found[place] = true;
            }
        }
        (self.0.iter().zip(found).filter(|(_, found)| *found).map(|(place, _)| place).collect(), unknown)
    }

    /// All names that mean something, for people.
    pub fn names(&self) -> String {
        let mut names: Vec<&str> = self.0.iter().map(|place| place.node.as_str()).collect();
        names.extend(self.0.iter().flat_map(|place| place.targets.iter().map(String::as_str)));
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster() -> Roster {
        let place = |node: &str, targets: &[&str]| Place {
            node: node.into(),
            targets: targets.iter().map(|name| (*name).to_owned()).collect(),
            devices: vec![],
            taints: vec![],
        };
        Roster::new(vec![place("west", &["west"]), place("both", &["east", "north"]), place("far", &["north"])])
    }

    #[test]
    fn a_name_means_a_node_or_all_that_stand_for_the_target() {
        let find = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let roster = roster();
            let (found, unknown) = roster.find(&names);
            let found: Vec<_> = found.iter().map(|place| place.node.clone()).collect();
            (found.join(","), unknown.join(","))
        };
        assert_eq!(find(&["west"]), ("west".into(), String::new()));
        assert_eq!(find(&["north"]), ("both,far".into(), String::new()));
        assert_eq!(find(&["west", "east", "east"]), ("both,west".into(), String::new()));
        assert_eq!(find(&["moon", "far"]), ("far".into(), "moon".into()));
        assert_eq!(roster().names(), "both, east, far, north, west");
    }
}
