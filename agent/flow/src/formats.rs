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

#[cfg(test)]
mod tests {
    use super::*;

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
