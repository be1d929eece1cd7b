//! Values of statements, with their types.
//!
//! Asked for the types of a statement's parameters first, a server answers twice: with a way of 20 ms between us that is
//! 20 ms for each statement. So who gives a value says its type, and a statement is one question with one answer.

use tokio_postgres::types::{ToSql, Type};

/// What a statement takes as a parameter.
pub(crate) trait Value: Sync {
    /// As the server is given it.
    fn typed(&self) -> (&(dyn ToSql + Sync), Type);
}

/// A value that may be one of many.
pub(crate) trait Single: ToSql + Sync {
    /// Its type.
    const TYPE: Type;
    /// That of many.
    const ARRAY: Type;
}

macro_rules! singles {
    ($($rust:ty: $one:ident, $many:ident;)*) => {
        $(impl Single for $rust {
            const TYPE: Type = Type::$one;
            const ARRAY: Type = Type::$many;
        })*
    };
}

singles! {
    bool: BOOL, BOOL_ARRAY;
    i16: INT2, INT2_ARRAY;
    i32: INT4, INT4_ARRAY;
    i64: INT8, INT8_ARRAY;
    u32: OID, OID_ARRAY;
    f64: FLOAT8, FLOAT8_ARRAY;
    &str: TEXT, TEXT_ARRAY;
    String: TEXT, TEXT_ARRAY;
    &[u8]: BYTEA, BYTEA_ARRAY;
    Vec<u8>: BYTEA, BYTEA_ARRAY;
}

impl<T: Single> Single for Option<T> {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Single> Single for &T {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Single> Value for T {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        (self, T::TYPE)
    }
}

/// Many values of one type.
macro_rules! many {
    ($([$($generics:tt)*] $rust:ty;)*) => {
        $(impl<$($generics)*> Value for $rust {
            fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
                (self, T::ARRAY)
            }
        })*
    };
}

many! {
    [T: Single] Vec<T>;
    [T: Single] Option<Vec<T>>;
    [T: Single] &Vec<T>;
    [T: Single] &[T];
}
