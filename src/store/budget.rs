//! What reading a section may allocate: a small multiple of its length.
//!
//! A list of things that are short in the file and long in memory (an empty text takes a byte there, and 24 here) would
//! else take many times what was read. So every element of a list or a map is paid for as it is read, by its
//! size in memory; and nobody reserves room for a list as long as the file says that it is.
//!
//! It wraps any deserialiser and knows nothing of what is read.
//!
//! Example: of a section of 4096 zeros read as a `Vec<String>` some 1500 are read, then it is refused.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// So many bytes may the elements of a section take for each of its own: a plan of a real tree takes two or three.
const TIMES: usize = 8;
/// And so many in any case.
const FLOOR_BYTES: usize = 4096;

/// What may still be allocated.
#[derive(Debug)]
pub(super) struct Budget(Cell<usize>);

impl Budget {
    /// That of a section of this length.
    pub(super) fn of(section_bytes: usize) -> Budget {
        Budget(Cell::new(section_bytes.saturating_mul(TIMES).saturating_add(FLOOR_BYTES)))
    }

    fn pay<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let rest = self.0.get().checked_sub(bytes);
        self.0.set(rest.ok_or_else(|| E::custom("it would take many times its length in memory"))?);
        Ok(())
    }

    /// How many elements there is room for in advance, of any size that elements have.
    fn ahead(&self, claimed: Option<usize>) -> Option<usize> {
        claimed.map(|claimed| claimed.min(self.0.get() / 64))
    }
}

/// Something that deserialises within a budget.
#[derive(Debug)]
pub(super) struct Within<'a, T> {
    pub(super) inner: T,
    pub(super) budget: &'a Budget,
}

macro_rules! deserialise {
    ($($method:ident($($arg:ident: $ty:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $ty,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($arg,)* Within { inner: visitor, budget: self.budget })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Within<'_, D> {
    type Error = D::Error;

    deserialise! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($ty:ty);)*) => {$(
        fn $method<E: Error>(self, value: $ty) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Within { inner, budget: self.budget })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Within { inner, budget: self.budget })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Within { inner, budget: self.budget })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Within { inner, budget: self.budget })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Within { inner, budget: self.budget })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Within<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, inner: T) -> Result<Option<T::Value>, A::Error> {
        let element = self.inner.next_element_seed(Within { inner, budget: self.budget })?;
        if element.is_some() {
            self.budget.pay(size_of::<T::Value>())?;
        }
        Ok(element)
    }

    fn size_hint(&self) -> Option<usize> {
        self.budget.ahead(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Within<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, inner: K) -> Result<Option<K::Value>, A::Error> {
        let key = self.inner.next_key_seed(Within { inner, budget: self.budget })?;
        if key.is_some() {
            self.budget.pay(size_of::<K::Value>())?;
        }
        Ok(key)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, inner: T) -> Result<T::Value, A::Error> {
        self.budget.pay(size_of::<T::Value>())?;
        self.inner.next_value_seed(Within { inner, budget: self.budget })
    }

    fn size_hint(&self) -> Option<usize> {
        self.budget.ahead(self.inner.size_hint())
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Within<'a, A> {
    type Error = A::Error;
    type Variant = Within<'a, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, inner: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let budget = self.budget;
        let (value, inner) = self.inner.variant_seed(Within { inner, budget })?;
        Ok((value, Within { inner, budget }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Within<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, inner: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Within { inner, budget: self.budget })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Within { inner: visitor, budget: self.budget })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Within { inner: visitor, budget: self.budget })
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Within<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.inner.deserialize(Within { inner, budget: self.budget })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;

    use super::*;

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let budget = Budget::of(bytes.len());
        let mut inner = postcard::Deserializer::from_bytes(bytes);
        T::deserialize(Within { inner: &mut inner, budget: &budget }).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_written_is_read() {
        type Nested = (Vec<(u32, String)>, Option<Vec<u64>>, BTreeMap<u8, Vec<u8>>, Result<u8, Vec<i32>>);
        let value: Nested = (
            vec![(1, "a text that is no longer here than there".to_owned()); 50],
            Some(vec![u64::MAX; 100]),
            BTreeMap::from([(3, vec![1, 2, 3]), (4, Vec::new())]),
            Err(vec![-1, i32::MAX]),
        );
        let bytes = postcard::to_allocvec(&value).expect("bytes");
        assert_eq!(read::<Nested>(&bytes), Ok(value));
    }

    #[test]
    fn long_lists_of_nothing_are_refused() {
        let list = |count: usize| postcard::to_allocvec(&vec![String::new(); count]).expect("bytes");
        assert_eq!(read::<Vec<String>>(&list(100)).map(|list| list.len()), Ok(100));
        assert!(read::<Vec<String>>(&list(100_000)).is_err());
        assert!(read::<Vec<Vec<String>>>(&[&[0x80, 0x20][..], &[0; 4096]].concat()).is_err());
        // A list that says of itself that it is endless ends where the bytes do.
        assert!(read::<Vec<[u64; 16]>>(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
    }
}
