//! What a pod asks of its node, kept while home's scheduler is asked for the virtual node instead. Pure.
//!
//! The webhook takes it off ([`Constraints::of`]) and writes it on the pod; the translation puts it back
//! ([`Constraints::restore`]), so that the target's scheduler is asked what the user asks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::spec::Object;
use crate::provider::names;

/// The value of the annotation [`names::CONSTRAINTS`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Constraints {
    /// What the pod had before.
    pub was: Was,
    /// What was added to it, or will be when it may go.
    pub added: Added,
}

/// The fields of a pod's spec by which it asks for nodes, without its tolerations, which stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Was {
    /// `spec.nodeSelector`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Value>,
    /// `spec.affinity`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Value>,
    /// `spec.topologySpreadConstraints`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Value>,
}

/// What was added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Added {
    /// Tolerations of virtual nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Value>,
}

impl Constraints {
    /// What a pod has now.
    pub fn of(spec: &Object) -> Self {
        let given = |field: &str| spec.get(field).filter(|value| !value.is_null()).cloned();
        let was = Was {
            node_selector: given("nodeSelector"),
            affinity: given("affinity"),
            topology_spread_constraints: given("topologySpreadConstraints"),
        };
        Self { was, added: Added::default() }
    }

    /// Reads the annotation.
    ///
    /// # Errors
    /// When it is not what [`Constraints::print`] writes.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        // By way of an object: a list would be taken for one, too.
        serde_json::from_value(Value::Object(serde_json::from_str(text)?))
    }

    /// The value of the annotation.
    pub fn print(&self) -> String {
        // Documents that were read as JSON always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Gives a spec what it had, and takes off what was added; answers the fields that have changed.
    pub fn restore(&self, spec: &mut Object) -> Vec<String> {
        let fields = [
            ("nodeSelector", &self.was.node_selector),
            ("affinity", &self.was.affinity),
            ("topologySpreadConstraints", &self.was.topology_spread_constraints),
        ];
        let mut changed = vec![];
        for (field, was) in fields {
            if spec.get(field).filter(|value| !value.is_null()) == was.as_ref() {
                continue;
            }
            match was {
                Some(was) => drop(spec.insert(field.into(), was.clone())),
                None => drop(spec.remove(field)),
            }
            changed.push(field.to_owned());
        }
        // Those of the taint that virtual nodes have by default go later, as they do when users write them.
        let others = self.added.tolerations.iter().filter(|one| one["key"] != names::TAINT);
        if Self::take_off(others, spec) {
            changed.push("tolerations".to_owned());
        }
        changed
    }

    /// Takes all off that was added, as if the webhook had never seen the pod.
    pub fn undo(&self, spec: &mut Object) {
        self.restore(spec);
        Self::take_off(self.added.tolerations.iter(), spec);
    }

    fn take_off<'a>(added: impl Iterator<Item = &'a Value>, spec: &mut Object) -> bool {
        let Some(Value::Array(all)) = spec.get_mut("tolerations") else { return false };
        let before = all.len();
        for one in added {
            // From the end, where it was added: an equal one before it is the user's.
            if let Some(place) = all.iter().rposition(|toleration| toleration == one) {
                all.remove(place);
            }
        }
        let changed = all.len() != before;
        if changed && all.is_empty() {
            spec.remove("tolerations");
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        let Value::Object(object) = value else { unreachable!() };
        object
    }

    #[test]
    fn what_was_there_comes_back_and_what_was_not_goes() {
        let own = object(json!({"nodeSelector": {"disk": "ssd"}, "topologySpreadConstraints": [{"maxSkew": 1}],
            "tolerations": [{"key": "gpu"}], "containers": []}));
        let mut constraints = Constraints::of(&own);
        let taint = json!({"key": "custom", "operator": "Exists"});
        constraints.added.tolerations = vec![taint.clone()];
        let mut home = object(json!({"affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "gpu"}, taint],
            "containers": []}));
        let constraints = Constraints::read(&constraints.print()).unwrap();
        let changed = constraints.restore(&mut home);
        assert_eq!(changed, ["nodeSelector", "affinity", "topologySpreadConstraints", "tolerations"]);
        assert_eq!(home, own);
        assert!(constraints.restore(&mut home).is_empty(), "a second time changes nothing");
    }

    #[test]
    fn an_equal_toleration_of_the_users_stays() {
        let taint = json!({"key": "custom"});
        let mut constraints = Constraints::default();
        constraints.added.tolerations = vec![taint.clone()];
        let mut home = object(json!({"tolerations": [taint, {"key": "x"}, taint]}));
        constraints.restore(&mut home);
        assert_eq!(Value::Object(home), json!({"tolerations": [taint, {"key": "x"}]}));
    }

    #[test]
    fn only_undoing_takes_off_those_of_the_usual_taint() {
        let taint = json!({"key": names::TAINT, "operator": "Exists"});
        let mut constraints = Constraints::default();
        constraints.added.tolerations = vec![taint.clone()];
        let mut home = object(json!({"tolerations": [taint]}));
        assert!(constraints.restore(&mut home).is_empty());
        constraints.undo(&mut home);
        assert!(home.is_empty());
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        for odd in ["", "{", "[]", r#"{"was": {"containers": []}}"#, r#"{"more": 1}"#] {
            assert!(Constraints::read(odd).is_err(), "{odd}");
        }
    }
}
