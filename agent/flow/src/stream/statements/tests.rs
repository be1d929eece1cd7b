use super::super::table::KeyColumn;
use super::*;
use pgconvoy_shared::name::QualifiedName;

fn target(key: &[usize], identity_always: bool) -> Target {
    let column = |(name, type_name): (&str, &str)| TargetColumn {
        name: name.into(),
        type_name: type_name.into(),
        cast_of_its_own: false,
        identity_always: identity_always && name == "id",
    };
    let columns = [
        ("id", r#"pg_catalog."int4""#),
        ("na\"me", r#"pg_catalog."varchar""#),
        ("long", r#"pg_catalog."text""#),
    ];
    let equals = || "operator(pg_catalog.=)".into();
    Target {
        name: QualifiedName::new("s", "t"),
        only: true,
        has_rules: false,
        columns: columns.map(column).into(),
        key: key.iter().map(|column| KeyColumn { column: *column, equals: equals() }).collect(),
    }
}

fn row(values: &[&str]) -> Tuple {
    let field = |value: &&'static str| match *value {
        "-" => Field::Unchanged,
        "null" => Field::Null,
        value => Field::Text(value.as_bytes()),
    };
    // The texts of tests live as long as the program.
    let values: Vec<&'static str> =
        values.iter().map(|value| &*Box::leak((*value).to_owned().into_boxed_str())).collect();
    Tuple::from_fields(values.iter().map(field))
}

/// The statement, and how many elements each parameter has.
fn written(operation: &Operation, target: Target) -> (String, Vec<i32>) {
    let statement = statement(operation, &[target]).unwrap();
    (statement.sql, statement.parameters.iter().map(|parameter| parameter.count).collect())
}

#[test]
fn removed_rows_must_be_there() {
    let keys = vec![row(&["1"]), row(&["2"])];
    let remove = Operation::Remove { target: 0, keys, expect: Expect::Each };
    let (sql, counts) = written(&remove, target(&[0], false));
    assert_eq!(
        sql,
        r#"with done as (delete from only "s"."t" as t using (select u.k0::pg_catalog."int4" as k0 from unnest($1::text[]) as u(k0)) as v where t."id" operator(pg_catalog.=) v.k0 returning 1) select pgconvoy.require_rows((select pg_catalog.count(*) from done), pg_catalog.cardinality($1::text[]))"#
    );
    assert_eq!(counts, [2]);
}

#[test]
fn an_update_sets_what_was_told() {
    let rows = vec![(row(&["1"]), row(&["1", "-", "x"]))];
    let update = Operation::Update { target: 0, columns: [2].into(), rows, expect: Expect::Any };
    let (sql, counts) = written(&update, target(&[0], false));
    assert_eq!(
        sql,
        r#"update only "s"."t" as t set "long" = v.c2 from (select u.k0::pg_catalog."int4" as k0, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[]) as u(k0, c2)) as v where t."id" operator(pg_catalog.=) v.k0"#
    );
    assert_eq!(counts, [1, 1]);
}

#[test]
fn a_row_that_is_put_takes_the_place_of_another() {
    let rows = vec![row(&["1", "null", "x"])];
    let put = Operation::Insert { target: 0, rows, in_the_way: InTheWay::IsReplaced };
    assert_eq!(
        written(&put, target(&[0], true)).0,
        r#"insert into "s"."t" ("id", "na""me", "long") overriding system value select v.c0, v.c1, v.c2 from (select u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[], $3::text[]) as u(c0, c1, c2)) as v on conflict ("id") do update set "na""me" = excluded."na""me", "long" = excluded."long""#
    );
}

#[test]
fn a_row_in_the_way_is_removed_where_it_cannot_be_replaced() {
    let in_the_way = InTheWay::IsRemoved;
    let put = Operation::Insert { target: 0, rows: vec![row(&["1", "a", "x"])], in_the_way };
    assert_eq!(
        written(&put, target(&[0], true)).0,
        r#"with cleared as (delete from only "s"."t" as t using (select u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[], $3::text[]) as u(c0, c1, c2)) as w where t."id" operator(pg_catalog.=) w.c0 returning 1) insert into "s"."t" ("id", "na""me", "long") overriding system value select v.c0, v.c1, v.c2 from (select u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[], $3::text[]) as u(c0, c1, c2)) as v cross join (select pg_catalog.count(*) from cleared) as waited"#
    );
    let rows = vec![Moved { from: row(&["1"]), row: row(&["2", "a", "x"]) }];
    let moved = Operation::Move { target: 0, rows, expect: Expect::Any, in_the_way };
    assert_eq!(
        written(&moved, target(&[0], true)).0,
        r#"with moved as (delete from only "s"."t" as t using (select u.k0::pg_catalog."int4" as k0, u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2, u.place from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as u(k0, c0, c1, c2, place)) as v where t."id" operator(pg_catalog.=) v.k0 returning v.place, v.c0 as c0, v.c1 as c1, v.c2 as c2), cleared as (delete from only "s"."t" as t using (select u.k0::pg_catalog."int4" as k0, u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as u(k0, c0, c1, c2)) as w where t."id" operator(pg_catalog.=) w.c0 and not exists (select from (select u.k0::pg_catalog."int4" as k0, u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2 from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as u(k0, c0, c1, c2)) as v where t."id" operator(pg_catalog.=) v.k0) returning 1), put as (insert into "s"."t" ("id", "na""me", "long") overriding system value select moved.c0, moved.c1, moved.c2 from moved cross join (select pg_catalog.count(*) from cleared) as waited order by moved.place) select"#
    );
}

#[test]
fn a_row_in_the_way_is_removed_where_there_are_rules() {
    let put = |has_rules| {
        let rows = vec![row(&["1", "a", "b"])];
        let insert = Operation::Insert { target: 0, rows, in_the_way: InTheWay::IsReplaced };
        written(&insert, Target { has_rules, ..target(&[0], false) }).0
    };
    assert!(put(false).contains("on conflict"));
    assert!(
        put(true).starts_with("with cleared as (delete from") && !put(true).contains("on conflict")
    );
}

#[test]
fn moved_rows_are_all_taken_away_before_any_is_put() {
    let moved = |from, row_after: &[&str]| Moved { from: row(&[from]), row: row(row_after) };
    let rows = vec![moved("1", &["2", "a", "-"]), moved("2", &["1", "b", "x"])];
    let (expect, in_the_way) = (Expect::Each, InTheWay::Fails);
    let (sql, counts) =
        written(&Operation::Move { target: 0, rows, expect, in_the_way }, target(&[0], false));
    assert_eq!(
        sql,
        r#"with moved as (delete from only "s"."t" as t using (select u.k0::pg_catalog."int4" as k0, u.c0::pg_catalog."int4" as c0, u.c1::pg_catalog."varchar" as c1, u.c2::pg_catalog."text" as c2, u.told2 as told2, u.place from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) with ordinality as u(k0, c0, c1, c2, told2, place)) as v where t."id" operator(pg_catalog.=) v.k0 returning v.place, v.c0 as c0, v.c1 as c1, case when v.told2 is null then t."long" else v.c2 end as c2), put as (insert into "s"."t" ("id", "na""me", "long") select moved.c0, moved.c1, moved.c2 from moved order by moved.place) select pgconvoy.require_rows((select pg_catalog.count(*) from moved), pg_catalog.cardinality($1::text[]))"#
    );
    assert_eq!(counts, [2; 5]);
}

#[test]
fn of_equal_rows_just_as_many_go_as_were_removed() {
    let rows = vec![(row(&["1", "null", "x"]), 2)];
    assert_eq!(
        written(&Operation::RemoveAlike { target: 0, rows }, target(&[], false)).0,
        r#"with wanted as (select array[v.c0, v.c1, v.c2]::text[] as alike, v.n from (select u.c0 as c0, u.c1 as c1, u.c2 as c2, u.n::bigint as n from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as u(c0, c1, c2, n)) as v), found as (select t.tableoid, t.ctid, wanted.n, pg_catalog.row_number() over (partition by wanted.alike) as nth from only "s"."t" as t join wanted on array[case when t."id" is distinct from null then pg_catalog.format('%s', t."id") end, case when t."na""me" is distinct from null then pg_catalog.format('%s', t."na""me") end, case when t."long" is distinct from null then pg_catalog.format('%s', t."long") end]::text[] collate pg_catalog."C" = wanted.alike), done as (delete from only "s"."t" as t using found where t.ctid = found.ctid and t.tableoid = found.tableoid and found.nth <= found.n returning 1) select pgconvoy.require_rows((select pg_catalog.count(*) from done), (select pg_catalog.sum(n)::bigint from wanted))"#
    );
}

#[test]
fn tables_are_truncated_together() {
    let emptied = |restart_identity| {
        let truncate = Operation::Truncate { targets: [0].into(), restart_identity };
        written(&truncate, target(&[0], false)).0
    };
    assert_eq!(
        emptied(false),
        r#"do language plpgsql 'declare restarted regclass; begin truncate only "s"."t"; exception when feature_not_supported then delete from only "s"."t"; end'"#
    );
    let restarting = emptied(true);
    assert!(restarting.contains(r#"truncate only "s"."t" restart identity; "#), "{restarting}");
    assert!(restarting.contains(r#"(array[''"s"."t"'']::regclass[])"#), "{restarting}");
}

#[test]
fn a_value_that_was_not_told_is_never_written() {
    let rows = vec![row(&["1", "a", "-"])];
    let put = Operation::Insert { target: 0, rows, in_the_way: InTheWay::Fails };
    assert_eq!(statement(&put, &[target(&[0], false)]), Err(NotTold { column: 2 }));
}

#[test]
fn rows_of_which_nothing_is_set_are_looked_for() {
    let rows = vec![(row(&["1"]), row(&["1", "-", "-"]))];
    let update = Operation::Update { target: 0, columns: [].into(), rows, expect: Expect::Each };
    assert_eq!(
        written(&update, target(&[0], false)).0,
        r#"with found as (select 1 from only "s"."t" as t, (select u.k0::pg_catalog."int4" as k0 from unnest($1::text[]) as u(k0)) as v where t."id" operator(pg_catalog.=) v.k0) select pgconvoy.require_rows((select pg_catalog.count(*) from found), pg_catalog.cardinality($1::text[]))"#
    );
}

#[test]
fn a_type_with_a_cast_of_its_own_reads_its_values_itself() {
    let mut target = target(&[0], false);
    target.columns[0].type_name = r#"pg_catalog."regclass""#.into();
    target.columns[0].cast_of_its_own = true;
    let keys = vec![row(&["0"])];
    let remove = Operation::Remove { target: 0, keys, expect: Expect::Any };
    assert_eq!(
        written(&remove, target).0,
        r#"delete from only "s"."t" as t using (select (array[u.k0]::text::pg_catalog."regclass"[])[1] as k0 from unnest($1::text[]) as u(k0)) as v where t."id" operator(pg_catalog.=) v.k0"#
    );
}
