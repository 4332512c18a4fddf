//! Ways through a pod's spec as JSON.
//!
//! Whatever does not have the shape that the API server would have let through is passed over, and so passes through.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The lists of containers with which a pod is created. Ephemeral ones are added later, through a subresource.
pub(super) const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

/// The text in a field.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

/// The entries of a list in a field; none where there is no list.
pub(super) fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a list of an object.
pub(super) fn entries<'a>(object: &'a Object, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a list of an object, to change.
pub(super) fn entries_mut<'a>(object: &'a mut Object, field: &str) -> &'a mut [Value] {
    object.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// All containers with their paths.
pub(super) fn containers(spec: &Object) -> impl Iterator<Item = (String, &Value)> {
    CONTAINERS.into_iter().flat_map(|kind| {
        entries(spec, kind).iter().enumerate().map(move |(i, container)| (format!("spec.{kind}[{i}]"), container))
    })
}

/// Removes the entries of a list for which `drop` says so, given each with its index, and the list if none is left.
pub(super) fn drop_entries(object: &mut Object, field: &str, mut drop: impl FnMut(usize, &mut Value) -> bool) {
    let Some(list) = object.get_mut(field).and_then(Value::as_array_mut) else { return };
    let before = list.len();
    let mut index = 0;
    list.retain_mut(|entry| {
        index += 1;
        !drop(index - 1, entry)
    });
    if list.is_empty() && before > 0 {
        object.remove(field);
    }
}
