//! The types, each with the values that something on the way might change.

use super::Type;

/// Built-in types that hold one thing.
pub(super) const PLAIN: &[Type] = &[
    Type::new("bool", &["true", "false"]),
    Type::new("int2", &["-32768", "0", "32767"]),
    Type::new("int4", &["-2147483648", "-1", "2147483647"]),
    Type::new("int8", &["-9223372036854775808", "9223372036854775807"]),
    // Zeros, denormals, the largest, values whose last bits shorter texts lose.
    Type::new(
        "float4",
        &[
            "NaN", "Infinity", "-Infinity", "0", "-0", "1e-45", "-1.1754942e-38", "1.17549435e-38",
            "3.4028235e38", "0.1", "16777217", "8388609.5", "3.1415927", "1.00000012",
        ],
    ),
    Type::new(
        "float8",
        &[
            "NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "-2.225073858507201e-308",
            "2.2250738585072014e-308", "1.7976931348623157e308", "0.1", "0.30000000000000004",
            "9007199254740993", "1.0000000000000002", "3.141592653589793", "1e22", "1e23",
            "123456789.12345679",
        ],
    ),
    Type::new(
        "numeric",
        &[
            "NaN", "0", "0.000", "-0.00", "2.0", "2.00", "-1234567890.0987654321000", "1e-16383",
            "99999999999999999999999999999999999999999999999999", "1e131071",
        ],
    )
    .and(&["repeat('123456789', 100) || '.' || repeat('987654321', 100)"]),
    Type::new("numeric", &["Infinity", "-Infinity", "NaN"]).named("numeric without end").since(14),
    Type::new("numeric(1000, 500)", &["0", "-1.5", "NaN", "1e499"]),
    // From 15 on a scale may be negative, or larger than the precision.
    Type::new("numeric(3, -2)", &["12300", "-99900"]).since(15),
    Type::new("numeric(3, 5)", &["0.00123", "-0.00999"]).since(15),
    Type::new("money", &["-92233720368547758.08", "92233720368547758.07", "0", "-0.01"]),
    Type::new("text", TEXTS)
        .and(&["string_agg(chr(n), '' order by n) from generate_series(1, 700) n", "repeat('é€😀', 40000)"]),
    Type::new("varchar", TEXTS),
    Type::new("varchar(5)", &["", " ", "a    ", "é€😀 \\"]),
    Type::new("char(10)", &["", " ", "a", "a b  ", " a", "éééééééééé", "\\N", "\t"]),
    Type::new("char", &["", "x", "😀"]),
    Type::new("\"char\"", &["", "x", "\\", "'", "\t"]),
    // Before 15 its text is a byte that is no UTF-8, which no client can read.
    Type::new("\"char\"", &[]).named("char of high bits").since(15).and(&["(-1)::\"char\"", "(-128)::\"char\""]),
    Type::new("name", &["", "a name", "sixty_three_bytes_are_as_long_as_a_name_of_postgresql_can_be_yes", "É\"\\"]),
    Type::new("bytea", &["", "\\x00", "\\xdeadbeef", "\\x5c2e0a", "\\x5c4e", "\\x0d0a09"]).and(&[
        "string_agg(set_byte('\\x00'::bytea, 0, n), ''::bytea order by n) from generate_series(0, 255) n",
        "decode(repeat('00ff5c0a', 50000), 'hex')",
    ]),
    Type::new("bit", &["0", "1"]),
    Type::new("bit(17)", &["00000000000000000", "10101010101010101"]),
    Type::new("varbit", &["", "1", "0000000000000000000", "101"]),
    Type::new(
        "date",
        &["4713-01-01 BC", "0001-12-31 BC", "0001-01-01", "1582-10-10", "2000-02-29", "5874897-12-31", "infinity", "-infinity"],
    ),
    Type::new("time", &["00:00", "23:59:59.999999", "24:00:00", "12:00:00.000001"]),
    Type::new("time(0)", &["23:59:59.4", "24:00"]),
    Type::new(
        "timetz",
        &["00:00+00", "24:00:00-15:59:59", "23:59:59.999999+15:59:59", "12:00:00.5+05:45", "00:00:00.000001-00:00:01"],
    ),
    Type::new("timestamp", TIMESTAMPS),
    Type::new("timestamp(3)", &["2024-02-29 23:59:59.9994", "infinity"]),
    Type::new("timestamptz", TIMESTAMPS),
    Type::new("interval", INTERVALS).and(&[
        "make_interval(years => -178000000)",
        "justify_interval('-1 year 1 day')",
        "'P-1Y-2M3DT-4H-5M-6.789S'::interval",
    ]),
    Type::new("interval", &["infinity", "-infinity"]).named("interval without end").since(17),
    Type::new("interval day to second(2)", &["-3 days 04:05:06.789", "0"]),
    Type::new("interval year to month", &["-1-2", "178000000 years"]),
    Type::new("uuid", &["00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-ffff-ffff-ffffffffffff"]),
    Type::new(
        "json",
        &[
            " { \"b\" : 1,\n\t\"a\":2 , \"b\":3 }", "null", "\"\\u0000\"", "\"\\ud83d\\ude00 \\/\"",
            "1e400", "-0.0", "[ ]", "\"tab\\t and \\\\ backslash\"", "  true  ",
        ],
    ),
    Type::new(
        "jsonb",
        &[
            "{\"b\": 1, \"a\": 2, \"b\": 3}", "null", "1.00", "1e30", "-0.0", "1E-20", "\"\\ud83d\\ude00\"",
            "[1, [2, [null, {}]]]", "{\"\": \"\", \" \": \"\\\\\"}", "12345678901234567890.12345678901234567890",
        ],
    ),
    Type::new("jsonpath", &["$", "lax $.a[*] ? (@ > 1 && @.b == \"x\\\\\")", "strict $.\"key with blank\".size()"]),
    Type::new(
        "xml",
        &[
            "", "text &amp; no root", "<a>1</a><b/>", "<a b=\"'\">\n<!-- c --></a>",
            "<?xml version=\"1.0\"?><a>é😀</a>", "<![CDATA[ < & \\ ]]>",
        ],
    ),
    Type::new("inet", &["0.0.0.0/0", "10.1.2.3/8", "255.255.255.255", "::", "::1/128", "fe80::1/64", "::ffff:1.2.3.4/96"]),
    Type::new("cidr", &["0.0.0.0/0", "10.0.0.0/8", "::/0", "2001:db8::/32", "1.2.3.4/32"]),
    Type::new("macaddr", &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "08002b:010203"]),
    Type::new("macaddr8", &["00:00:00:00:00:00:00:00", "08:00:2b:01:02:03", "ffffffffffffffff"]),
    Type::new("point", &["(0,-0)", "(NaN,Infinity)", "(-Infinity,5e-324)", "(0.1,0.30000000000000004)"]),
    Type::new("line", &["{1,-1,0}", "{0.1,0.2,-0}", "{1e-300,1,1e300}"]),
    Type::new("lseg", &["[(0,0),(0,0)]", "[(-1.5,1e308),(0.1,-0)]"]),
    Type::new("box", &["(0,0),(1,1)", "(1,2),(-3.25,-0)", "(Infinity,NaN),(0,0)"]),
    Type::new("path", &["[(0,0)]", "((0,0),(1,1),(2,0))", "[(0.1,1e-5),(1,1)]"]),
    Type::new("polygon", &["((0,0))", "((0,0),(1,1.1),(2,-0))"]),
    Type::new("circle", &["<(0,0),0>", "<(-1.5,0.1),Infinity>"]),
    Type::new("tsvector", &["", "a b:1A,2B c:3C 'it''s':4 '\\\\ x':16383"]),
    Type::new("tsquery", &["", "a & !b | (c <-> d)", "'it''s':*AB & x <3> y"]),
    Type::new("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"]),
    Type::new("txid_snapshot", &["10:20:10,14,15", "1:1:"]),
    Type::new("pg_snapshot", &["10:20:10,14,15", "1:9223372036854775807:"]),
    Type::new("xid", &["0", "3", "4294967295"]),
    Type::new("xid8", &["0", "18446744073709551615"]),
    Type::new("cid", &["0", "4294967295"]),
    Type::new("tid", &["(0,0)", "(4294967295,65535)"]),
    Type::new("oid", &["0", "4294967295", "1259"]),
    Type::new("regclass", &["-", "pg_class", "odd.\"Pair \"\" of\"", "4294967290"]),
    Type::new("regtype", &["-", "timestamp with time zone", "odd.mood[]", "\"char\""]),
    Type::new("regproc", &["-", "now", "odd.twice"]),
    Type::new("regprocedure", &["-", "odd.twice(int,odd.mood)", "sum(int4)"]),
    Type::new("regoper", &["0", "pg_catalog.||/"]),
    Type::new("regoperator", &["0", "+(int4,int4)", "!~(text,text)"]),
    Type::new("regnamespace", &["-", "odd", "pg_catalog"]),
    Type::new("regrole", &["-", "postgres"]),
    Type::new("regconfig", &["english", "odd.words"]),
    Type::new("regdictionary", &["simple"]),
    Type::new("regcollation", &["\"C\"", "default"]),
    Type::new("refcursor", &["", "a cursor"]),
    Type::new("aclitem", &["postgres=arwdDxt/postgres", "=r/postgres"]),
    Type::new("int4range", &["empty", "[1,5)", "(1,5]", "(,)", "[-2147483648,)", "(,2147483646]"]),
    Type::new("int8range", &["empty", "[9223372036854775806,)"]),
    Type::new("numrange", &["(1.10,2.200]", "[1,1]", "(1,1)", "[NaN,]", "(,-0.00)"]),
    Type::new("daterange", &["[2024-01-01,infinity]", "[-infinity,4713-01-01 BC)", "(2024-01-01,2024-01-02)"]),
    Type::new("tsrange", &["[\"2024-01-01 00:00:00.000001\",infinity)", "(,)"]),
    Type::new("tstzrange", &["(\"2024-01-01 00:00+05:45\",]", "[\"0001-01-01 BC\",\"294276-12-31 UTC\"]"]),
    Type::new("int4multirange", &["{}", "{[1,3),[5,9)}", "{(,)}", "{[1,2],[3,4]}"]).since(14),
    Type::new("nummultirange", &["{[1.0,2.00),(3,]}", "{[NaN,NaN]}"]).since(14),
    Type::new("tstzmultirange", &["{[2024-01-01,2024-01-02),[2025-01-01,infinity]}"]).since(14),
];

/// Arrays that are more than a list; arrays of every type are made of the others.
pub(super) const ARRAYS: &[Type] = &[
    Type::array(
        "int4[]",
        &[
            "{}",
            "{NULL}",
            "[2:3]={1,NULL}",
            "[-1:0][5:6]={{1,2},{3,4}}",
            "{{{1}},{{2}}}",
            "[0:0]={7}",
        ],
    ),
    Type::array(
        "text[]",
        &[
            "{}",
            "{NULL,\"NULL\",\"\",\" \"}",
            "{\"a,b\",\"{c}\",\"\\\"\",\"\\\\\",\"\\\\N\",\"\n\"}",
            "[3:3][2:2]={{\"é😀\"}}",
        ],
    ),
    Type::array("interval[]", &["{-1 mon +2 days -03:04:05.6,NULL,0}", "[-5:-5]={1 year}"]),
    Type::array("bytea[]", &["{\"\\\\x00\",\"\\\\x5c\",NULL}"]),
    Type::array("float8[]", &["{NaN,-0,5e-324,NULL}"]),
    Type::array(
        "odd.mood[]",
        &["{}", "{sad,NULL,\"it's \\\\ fine\",\"\",\"NULL\"}", "[0:0]={\",\"}"],
    ),
    Type::array("odd.moods", &["{}", "{sad,ok}", "[2:2]={ok}"]),
    Type::array("int2vector", &["", "1 2 -3"]),
    Type::array("oidvector", &["", "1 4294967295"]),
];

/// Types that the database makes itself, in schema `odd`.
pub(super) const MADE: &[Type] = &[
    Type::new("odd.mood", &["sad", "ok", "it's \\ fine", "", ",", "NULL"]),
    Type::new("odd.short", &["", "a b", "\\"]),
    Type::new("odd.even", &["0", "-2147483648"]),
    Type::new("odd.latest", &["2024-02-29", "infinity"]).never_null(),
    Type::new("odd.\"Pair \"\" of\"", &["(,)", "(1,\"\")", "(-1,\"a,\"\"b\"\"\\\\ (c)\")", "(,\" \")"]),
    Type::new("odd.nested", &["(,,,)"]).and(&[
        r#"row('ok', array['1', null, '['], row(1, 'x'), array[row(2, 'y "z\')::odd."Pair "" of", null])::odd.nested"#,
    ]),
    Type::new("odd.dropped", &["(1,x)", "(,)"]),
    Type::new("odd.moodrange", &["[sad,ok]", "(,ok)", "empty", "[\"it's \\\\ fine\",]"]),
    Type::new("odd.floatrange", &["[0.1,0.30000000000000004)", "(-Infinity,NaN]", "[-0,5e-324]"]),
    Type::new("odd.moodmultirange", &["{[sad,ok],(\"it's \\\\ fine\",)}", "{}"]).since(14),
];

/// Types of extensions that come with PostgreSQL.
pub(super) const OF_EXTENSIONS: &[Type] = &[
    Type::new("ext.hstore", &["", "\"a\"=>NULL, \"NULL\"=>\"\", \"=>\"=>\"\\\\ \\\"\"", "é=>😀"]),
    Type::new("ext.citext", &["", "MiXed Ä", "\\."]),
    Type::new("ext.ltree", &["", "Top.Science.a_1"]),
    Type::new("ext.lquery", &["Top.*{1,2}.!a|b@%*"]),
    Type::new("ext.cube", &["(0,-0)", "(0.1,2),(3,1e-300)"]),
    Type::new("ext.seg", &["1.50", "~0.1", "1.0 .. 2.00", "< 3"]),
    Type::new("ext.ean13", &["978-0-393-04002-9"]),
    Type::new("ext.query_int", &["1&(2|!3)"]),
];

const TEXTS: &[&str] = &[
    "",
    " ",
    "trailing  ",
    "\\",
    "\\\\",
    "\\.",
    "\\N",
    "N",
    "NULL",
    "a\nb",
    "a\r\nb",
    "\n",
    "\t",
    "\u{8}\u{c}\u{b}\u{1}\u{7f}",
    "'",
    "\"",
    "$1 %s {} $$",
    "😀 astral",
    "e\u{301} combining",
    "\u{e9} composed",
    "\u{feff}bom",
    "\u{10ffff}",
    "\u{202e}turned",
    "İıŞß",
];

const TIMESTAMPS: &[&str] = &[
    "4713-01-01 00:00:00 BC",
    "0001-12-31 23:59:59.999999 BC",
    "0001-01-01 00:00:00",
    "1883-11-18 12:03:58",
    "1969-12-31 23:59:59.999999",
    "2000-01-01",
    "2016-12-31 23:59:60",
    "2024-02-29 12:34:56.000001",
    "2024-10-27 02:30:00",
    "10000-01-01",
    "294276-12-31 23:59:59.999999",
    "infinity",
    "-infinity",
];

const INTERVALS: &[&str] = &[
    "0",
    "1 mon -30 days +00:00:00.000001",
    "-1 mon +1 day -24:00:00",
    "1 year -13 mons",
    "0.000001 s",
    "-00:00:00.000001",
    "9999999:59:59.999999",
    "25:59:60",
    "-2147483648 mons",
    "2147483647 days",
];
