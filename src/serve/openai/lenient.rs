//! Pieces of JSON that come in more than one shape, read with bounded memory and with the path to a mistake kept.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// A JSON object, and not the array of its values that serde would take as well.
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

/// A list of at most `N`.
#[derive(Debug)]
pub(crate) struct AtMost<T, const N: usize>(pub(crate) Vec<T>);

struct AtMostVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMostVisitor<T, N> {
    type Value = AtMost<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {N}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < N {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(AtMost(items)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format_args!("more than {N} items"))),
            None => Ok(AtMost(items)),
        }
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

/// A string, or a list of at most `N` of something.
#[derive(Debug)]
pub(crate) enum TextOr<'a, T, const N: usize> {
    Text(Cow<'a, str>),
    List(Vec<T>),
}

struct TextOrVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for TextOrVisitor<T, N> {
    type Value = TextOr<'de, T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or an array of at most {N}")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        AtMostVisitor::<T, N>(PhantomData).visit_seq(seq).map(|list| TextOr::List(list.0))
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>, const N: usize> Deserialize<'de> for TextOr<'a, T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

/// What matters about a field that is not supported: whether it asks for anything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Asks {
    /// `null`, `false`, `[]`, `{}` or absent.
    #[default]
    Nothing,
    /// A word.
    Word(String),
    /// Anything else.
    Something,
}

impl Asks {
    /// Whether it asks for something other than `word`.
    pub(crate) fn other_than(&self, word: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Word(given) => given != word,
            Self::Something => true,
        }
    }
}

struct AsksVisitor;

impl<'de> Visitor<'de> for AsksVisitor {
    type Value = Asks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Asks, E> {
        Ok(Asks::Nothing)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Asks, E> {
        Ok(if on { Asks::Something } else { Asks::Nothing })
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Asks, E> {
        Ok(Asks::Word(word.chars().take(64).collect()))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Asks, E> {
        Ok(Asks::Something)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Asks, E> {
        Ok(Asks::Something)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Asks, E> {
        Ok(Asks::Something)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Asks, A::Error> {
        let mut asks = Asks::Nothing;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            asks = Asks::Something;
        }
        Ok(asks)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asks, A::Error> {
        let mut asks = Asks::Nothing;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            asks = Asks::Something;
        }
        Ok(asks)
    }
}

impl<'de> Deserialize<'de> for Asks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsksVisitor)
    }
}
