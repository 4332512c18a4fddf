//! Which part of a value is kept while its text is read. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What is kept of a value. Nothing is made of the rest.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// All of it.
    All,
    /// These fields of an object, and as much of each; all of anything else.
    Fields(&'static [(&'static str, Keep)]),
    /// So much of each entry of a list; all of anything else.
    Each(&'static Keep),
}

impl<'de> DeserializeSeed<'de> for &Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let each = if let Keep::Each(each) = self { each } else { &Keep::All };
        let mut kept = vec![];
        while let Some(value) = list.next_element_seed(each)? {
            kept.push(value);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        if let Keep::Fields(fields) = self {
            while let Some(field) = object.next_key_seed(Field(fields))? {
                match field {
                    Some((name, keep)) => _ = kept.insert((*name).to_owned(), object.next_value_seed(keep)?),
                    None => _ = object.next_value::<IgnoredAny>()?,
                }
            }
        } else {
            while let Some(name) = object.next_key::<String>()? {
                kept.insert(name, object.next_value_seed(&Keep::All)?);
            }
        }
        Ok(Value::Object(kept))
    }
}

/// Finds out which of these fields is next, without a copy of its name.
struct Field(&'static [(&'static str, Keep)]);

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Option<&'static (&'static str, Keep)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Field {
    type Value = Option<&'static (&'static str, Keep)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(known, _)| *known == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    static ENTRY: Keep = Keep::Fields(&[("name", Keep::All)]);
    static WHOLE: Keep = Keep::Fields(&[("list", Keep::Each(&ENTRY)), ("all", Keep::All)]);

    fn kept(text: &str) -> Value {
        WHOLE.deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap()
    }

    #[test]
    fn nothing_else_is_kept() {
        let all = json!({"a": [1, -2, 1.5, true, null, "x\n"], "b": {"c": {}}});
        let whole = json!({"list": [{"name": "a", "rest": {"name": "b"}}, 7, [{"x": 1}]], "all": all, "more": [all]});
        let expected = json!({"list": [{"name": "a"}, 7, [{"x": 1}]], "all": all});
        assert_eq!(kept(&whole.to_string()), expected);
    }

    #[test]
    fn what_has_another_form_is_kept_whole() {
        for odd in [json!([{"more": 1}]), json!("x"), json!(null), json!({"list": {"name": 1, "more": 2}})] {
            assert_eq!(kept(&odd.to_string()), odd);
        }
    }
}
