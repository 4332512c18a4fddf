//! JSON that is read when somebody looks at it.
//!
//! Of the documents that one pod's life brings past, most are looked at for their metadata alone: the spec of a delegate is
//! looked at twice, and what an own write has made of a proxy comes a second time with the watch.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

pub use keep::Keep;

mod keep;

/// A value, or the text of one that nobody has looked at yet. A text that is well-formed and cannot be a value all the same
/// (a number beyond all bounds, lists within lists a hundred deep) counts as null; no API server sends any.
#[derive(Clone, Default)]
pub struct Json {
    /// What it was read from, as long as nobody has changed it.
    text: Option<Box<RawValue>>,
    value: OnceLock<Value>,
}

impl Json {
    /// What it was read from, where that is known and it has not been changed since.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref().map(RawValue::get)
    }

    /// Reads no more of the text than this, for those who look from now on, unless it was read already. The text stays whole.
    pub fn skim(&mut self, keep: &Keep) {
        let read = |text| keep.deserialize(&mut serde_json::Deserializer::from_str(text)).ok();
        if self.value.get().is_none()
            && let Some(value) = self.text().and_then(read)
        {
            self.value = value.into();
        }
    }

    /// Takes the value out, and leaves null.
    pub fn take(&mut self) -> Value {
        std::mem::take(self).into_value()
    }

    /// The value by itself.
    pub fn into_value(self) -> Value {
        _ = &*self;
        self.value.into_inner().unwrap_or_default()
    }

    /// Whether there is nothing. Does not look at more than it has to.
    pub fn is_null(&self) -> bool {
        self.text().map_or_else(|| Value::is_null(self), |text| text == "null")
    }

    /// What serializes like it and looks at nothing. For serializers of JSON only.
    pub fn as_it_came(&self) -> impl Serialize {
        AsItCame(self)
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self { text: None, value: value.into() }
    }
}

impl Deref for Json {
    type Target = Value;

    fn deref(&self) -> &Value {
        let read = || self.text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        self.value.get_or_init(read)
    }
}

impl DerefMut for Json {
    #[expect(clippy::expect_used, reason = "whoever looks at it sets it")]
    fn deref_mut(&mut self) -> &mut Value {
        _ = &**self;
        self.text = None;
        self.value.get_mut().expect("it was looked at")
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl PartialEq<Value> for Json {
    fn eq(&self, other: &Value) -> bool {
        **self == *other
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

struct AsItCame<'a>(&'a Json);

impl Serialize for AsItCame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.text {
            Some(text) => text.serialize(serializer),
            None => self.0.serialize(serializer),
        }
    }
}

/// The name by which [`RawValue`] asks `serde_json` for the text of a value. It is theirs to change; then all is read at once,
/// as from every other format.
const RAW: &str = "$serde_json::private::RawValue";

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW, Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// `serde_json` gives the text.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
        let text = Box::<RawValue>::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Json { text: Some(text), value: OnceLock::new() })
    }

    /// Everybody else gives the value.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        Value::deserialize(deserializer).map(Json::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Deserialize)]
    #[serde(tag = "type", content = "object")]
    enum Event {
        Added(Json),
    }

    #[test]
    fn nothing_is_read_before_somebody_looks() {
        let mut json: Json = serde_json::from_str(r#"{"a": [1, 2]}"#).unwrap();
        assert!(json.value.get().is_none() && !json.is_null() && json.value.get().is_none());
        assert_eq!(json.text(), Some(r#"{"a": [1, 2]}"#));
        assert_eq!(serde_json::to_string(&json.as_it_came()).unwrap(), r#"{"a": [1, 2]}"#);
        assert_eq!(json["a"][1], 2);
        json["a"][1] = json!(3);
        assert_eq!((json.text(), &json), (None, &Json::from(json!({"a": [1, 3]}))));
        assert_eq!(serde_json::to_string(&json.as_it_came()).unwrap(), r#"{"a":[1,3]}"#);
    }

    #[test]
    fn an_event_is_read_in_whatever_order_it_comes() {
        let Event::Added(first) = serde_json::from_str(r#"{"type": "Added", "object": {"a": 1}}"#).unwrap();
        assert!(first.text().is_some());
        let Event::Added(last) = serde_json::from_str(r#"{"object": {"a": 1}, "type": "Added"}"#).unwrap();
        assert_eq!(first, last);
    }

    #[test]
    fn other_formats_give_values() {
        let from_value: Json = serde_json::from_value(json!({"a": null})).unwrap();
        let from_yaml: Json = serde_saphyr::from_str("a:").unwrap();
        assert_eq!((from_value, from_yaml.into_value()), (json!({"a": null}).into(), json!({"a": null})));
        assert!(serde_json::from_str::<Json>("null").unwrap().is_null() && Json::default().is_null());
    }

    #[test]
    fn what_can_be_no_value_is_null() {
        let json: Json = serde_json::from_str("1e999").unwrap();
        assert_eq!(json, Value::Null);
    }
}
