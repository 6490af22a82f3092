//! Options with an automatic value.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IntoDeserializer, Visitor},
};

/// Value of an option, or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auto<T> {
    /// Chosen by the program.
    #[default]
    Auto,
    /// Given by the user.
    Value(T),
}

impl<T> Auto<T> {
    /// Returns the value, or `None` for `auto`.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Value(value) => Some(value),
        }
    }

    /// Returns a reference to the value, or `None` for `auto`.
    pub fn as_ref(&self) -> Option<&T> {
        match self {
            Self::Auto => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}

struct AutoVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AutoVisitor<T> {
    type Value = Auto<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Auto<T>, E> {
        if text == "auto" {
            Ok(Auto::Auto)
        } else {
            T::deserialize(text.into_deserializer()).map(Auto::Value)
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Auto<T>, E> {
        T::deserialize(number.into_deserializer()).map(Auto::Value)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Auto<T>, E> {
        T::deserialize(number.into_deserializer()).map(Auto::Value)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Auto<T>, E> {
        T::deserialize(number.into_deserializer()).map(Auto::Value)
    }
}
