//! Which types may travel in binary form.
//!
//! Only built-in types whose binary form has been the same since PostgreSQL 13 and holds no object id: what a server of
//! one version sends, a server of another takes. Enums, domains, composites, ranges, types of extensions, and arrays of
//! them, carry object ids or have forms of their own, so their tables go as text. So does a table with one column whose
//! type differs between the servers: text is converted, binary is not.

use pgconvoy_shared::unit::CopyFormat;

/// Object ids, which are fixed for built-in types: (type, its array).
const STABLE: [(u32, u32); 33] = [
    (16, 1000),   // bool
    (17, 1001),   // bytea
    (18, 1002),   // "char"
    (19, 1003),   // name
    (20, 1016),   // int8
    (21, 1005),   // int2
    (23, 1007),   // int4
    (25, 1009),   // text
    (114, 199),   // json
    (600, 1017),  // point
    (601, 1018),  // lseg
    (602, 1019),  // path
    (603, 1020),  // box
    (604, 1027),  // polygon
    (650, 651),   // cidr
    (700, 1021),  // float4
    (701, 1022),  // float8
    (774, 775),   // macaddr8
    (829, 1040),  // macaddr
    (869, 1041),  // inet
    (1042, 1014), // bpchar
    (1043, 1015), // varchar
    (1082, 1182), // date
    (1083, 1183), // time
    (1114, 1115), // timestamp
    (1184, 1185), // timestamptz
    (1186, 1187), // interval
    (1266, 1270), // timetz
    (1560, 1561), // bit
    (1562, 1563), // varbit
    (1700, 1231), // numeric
    (2950, 2951), // uuid
    (3802, 3807), // jsonb
];

/// The format for a table whose columns have these types at (source, destination).
#[must_use]
pub fn format_for(columns: impl IntoIterator<Item = (u32, u32)>) -> CopyFormat {
    let stable = |oid| STABLE.iter().any(|(of, array)| oid == *of || oid == *array);
    let all =
        columns.into_iter().all(|(source, destination)| source == destination && stable(source));
    if all { CopyFormat::Binary } else { CopyFormat::Text }
}

/// Types whose values every server sorts alike, if they are no text: ranges of them hold the same rows at both ends.
const ORDERED: [u32; 24] = [
    16, 17, 18, 19, 20, 21, 23, 26, 650, 700, 701, 774, 790, 829, 869, 1082, 1083, 1114, 1184,
    1266, 1560, 1562, 1700, 2950,
];
/// Texts: text, bpchar, varchar.
const TEXTS: [u32; 3] = [25, 1042, 1043];

/// A column as one end has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyType {
    /// Object id of its type.
    pub type_oid: u32,
    /// It is sorted by its bytes: collation C.
    pub by_bytes: bool,
    /// It may hold nulls.
    pub nullable: bool,
}

/// Whether ranges of a key hold the same rows at both ends, and together all of them. Its columns are given as (source,
/// destination): without nulls, which are in no range, and sorted alike. Texts are, where both ends sort them by their
/// bytes and those are the same, as they are in one encoding: any other collation depends on libraries of the machine.
pub fn ranges_alike(
    columns: impl IntoIterator<Item = (KeyType, KeyType)>,
    same_encoding: bool,
) -> bool {
    columns.into_iter().all(|(here, there)| {
        let texts = TEXTS.contains(&here.type_oid)
            && TEXTS.contains(&there.type_oid)
            && here.by_bytes
            && there.by_bytes
            && same_encoding;
        let alike = here.type_oid == there.type_oid && ORDERED.contains(&here.type_oid) || texts;
        alike && !here.nullable && !there.nullable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_that_both_ends_sort_alike_can_cut_a_comparison() {
        let of = |type_oid, by_bytes| KeyType { type_oid, by_bytes, nullable: false };
        let integer = of(23, true);
        assert!(ranges_alike([(integer, integer)], false));
        assert!(!ranges_alike([(integer, of(20, true))], true), "bounds are cast to one type");
        assert!(ranges_alike([(integer, integer), (of(25, true), of(1043, true))], true));
        assert!(!ranges_alike([(of(25, true), of(25, true))], false), "other bytes");
        assert!(!ranges_alike([(of(25, true), of(25, false))], true), "C against a language");
        assert!(!ranges_alike([(of(16_400, true), of(16_400, true))], true), "an enum");
        let nullable = KeyType { nullable: true, ..integer };
        assert!(!ranges_alike([(integer, nullable)], true), "a null is in no range");
    }

    #[test]
    fn binary_is_for_equal_and_stable_types() {
        assert_eq!(format_for([(23, 23), (1009, 1009)]), CopyFormat::Binary);
        assert_eq!(format_for([(23, 20)]), CopyFormat::Text, "another type at the destination");
        assert_eq!(
            format_for([(23, 23), (16_401, 16_401)]),
            CopyFormat::Text,
            "an enum, by chance"
        );
        assert_eq!(format_for([(26, 26)]), CopyFormat::Text, "oid");
    }
}
