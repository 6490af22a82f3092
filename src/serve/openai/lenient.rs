//! Lenient JSON types for fields of several shapes, with bounded memory and error paths.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor, value::MapAccessDeserializer,
    },
};
use serde_json::Value;

/// A JSON object; unlike serde's derive, it rejects an array of the field values.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A list of at most `N` items.
#[derive(Debug)]
pub(crate) struct BoundedList<T, const N: usize>(pub(crate) Vec<T>);

struct AtMostVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMostVisitor<T, N> {
    type Value = BoundedList<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {N} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < N {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(BoundedList(items)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format_args!("has more than {N} items"))),
            None => Ok(BoundedList(items)),
        }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for BoundedList<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

/// A string, or a list of at most `N` items.
#[derive(Debug)]
pub(crate) enum TextOr<'a, T, const N: usize> {
    Text(Cow<'a, str>),
    List(Vec<T>),
}

struct TextOrVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for TextOrVisitor<T, N> {
    type Value = TextOr<'de, T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or an array of at most {N} items")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        AtMostVisitor::<T, N>(PhantomData)
            .visit_seq(seq)
            .map(|list| TextOr::List(list.0))
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>, const N: usize> Deserialize<'de> for TextOr<'a, T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

/// Presence of an unsupported field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum FieldRequest {
    /// Absent or neutral: `null`, `false`, `""`, `[]` or `{}`.
    #[default]
    Nothing,
    /// Any other value.
    Something,
}

impl<'de> Deserialize<'de> for FieldRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ShortValue(value) = ShortValue::deserialize(deserializer)?;
        Ok(if value.is_some_and(|value| is_empty(&value)) {
            Self::Nothing
        } else {
            Self::Something
        })
    }
}

/// Returns `true` for a neutral value.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// A short value: a scalar, or a small array or object of scalars. `None` for any other value,
/// which is skipped.
#[derive(Debug)]
pub(crate) struct ShortValue(pub(crate) Option<Value>);

impl<'de> Deserialize<'de> for ShortValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ShortValueSeed { nested: false }
            .deserialize(deserializer)
            .map(Self)
    }
}

/// Deserializes a [`ShortValue`]; nested values must be scalars.
#[derive(Clone, Copy)]
struct ShortValueSeed {
    nested: bool,
}

impl ShortValueSeed {
    /// Most items of an array or fields of an object.
    const ITEMS: usize = 4;
    /// Longest string in bytes.
    const BYTES: usize = 64;

    fn items(self) -> usize {
        if self.nested { 0 } else { Self::ITEMS }
    }
}

impl<'de> DeserializeSeed<'de> for ShortValueSeed {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShortValueSeed {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Some(Value::Null))
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::Bool(on)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(number.into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok((text.len() <= Self::BYTES).then(|| text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Some(Vec::new());
        while let Some(list) = items.as_mut().filter(|list| list.len() < self.items()) {
            match seq.next_element_seed(Self { nested: true })? {
                None => return Ok(items.map(Value::Array)),
                Some(Some(item)) => list.push(item),
                Some(None) => items = None,
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            items = None;
        }
        Ok(items.map(Value::Array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Some(serde_json::Map::new());
        while let Some(object) = fields.as_mut().filter(|object| object.len() < self.items()) {
            match map.next_key::<String>()? {
                None => return Ok(fields.map(Value::Object)),
                Some(key) => match map.next_value_seed(Self { nested: true })? {
                    Some(value) if key.len() <= Self::BYTES => drop(object.insert(key, value)),
                    _ => fields = None,
                },
            }
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            fields = None;
        }
        Ok(fields.map(Value::Object))
    }
}

/// Deserializes an integer, also when written with a point or an exponent: `256.0`, `2.56e2`.
pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    struct Integer;

    impl<'de> Visitor<'de> for Integer {
        type Value = Option<i64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            i64::try_from(number).map(Some).map_err(|_| {
                E::invalid_value(Unexpected::Unsigned(number), &"an integer of 64 bits")
            })
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
            // Largest range in which `f64` represents every integer.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if number.fract() != 0.0 {
                return Err(E::invalid_type(Unexpected::Float(number), &self));
            }
            if number.abs() > EXACT {
                return Err(E::invalid_value(
                    Unexpected::Float(number),
                    &"an integer of 64 bits",
                ));
            }
            Ok(Some(number as i64))
        }
    }

    deserializer.deserialize_any(Integer)
}

/// Deserializes a variant of `T` from its name.
pub(crate) fn variant<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| T::deserialize(name.into_deserializer()))
        .transpose()
}
