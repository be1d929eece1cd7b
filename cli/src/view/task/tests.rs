use serde_json::json;

use super::*;

fn task() -> v1::Task {
    let endpoint = |host: &str| v1::Endpoint {
        host: host.into(),
        database: "shop".into(),
        user: "ann".into(),
        ..Default::default()
    };
    v1::Task {
        id: "0123456789abcdefghjkm".into(),
        name: "shop".into(),
        status: v1::TaskStatus::Running.into(),
        phase: v1::Phase::Copy.into(),
        spec: Some(v1::TaskSpec {
            name: "shop".into(),
            source: Some(endpoint("old")),
            destination: Some(endpoint("new")),
            ..Default::default()
        }),
        created_ms: 1_700_000_000_000,
        rows_done: 1_500,
        rows_total: 3_000,
        bytes_done: 1 << 20,
        bytes_total: 2 << 20,
        tables_total: 2,
        tables_done: 1,
        tables: vec![v1::TaskTable {
            name: "public.orders".into(),
            status: "copying".into(),
            rows_done: 1_500,
            rows_total: 3_000,
            bytes_done: 1 << 20,
            bytes_total: 2 << 20,
            shards: 2,
            shards_done: 1,
            generation: 1,
            cause: String::new(),
            ..Default::default()
        }],
        running: vec![v1::RunningUnit {
            unit: 7,
            kind: "copy".into(),
            subject: "public.orders shard 1".into(),
            agent: "a1".into(),
            epoch: 2,
            rows: 10,
            bytes: 2048,
            since_ms: 1_700_000_001_000,
        }],
        phase_times: vec![v1::PhaseTime {
            phase: v1::Phase::Copy.into(),
            began_ms: 1_700_000_000_000,
            ended_ms: 1_700_000_002_000,
        }],
        ..Default::default()
    }
}

/// Keys are a contract: one that is missing here breaks somebody's program.
#[test]
fn json_has_stable_keys() {
    let json = serde_json::to_value(TaskView::from(task())).unwrap();
    let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys.join(" "),
        "acknowledged bytes_done bytes_total cause cleaned_up created_at ended_at id lag_bytes \
         lag_seconds name phase phase_times precheck precheck_ended_at purpose retrying rows_done \
         rows_total running spec started_at status stream tables tables_done tables_total units verification"
    );
    assert_eq!(json["status"], "running");
    assert_eq!(json["phase"], "copy");
    assert_eq!(json["cause"], json!(null));
    assert_eq!(json["created_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(json["started_at"], json!(null));
    assert_eq!(
        json["tables"][0],
        json!({
            "name": "public.orders", "status": "copying", "rows_done": 1500, "rows_total": 3000,
            "bytes_done": 1_048_576, "bytes_total": 2_097_152, "shards": 2, "shards_done": 1,
            "generation": 1, "cause": null, "parked": null, "verification": null,
        })
    );
    assert_eq!(json["spec"]["source"]["host"], "old");
    assert_eq!(json["spec"]["types"], json!(["schema", "full"]));
    assert_eq!(
        json["phase_times"][0],
        json!({
            "phase": "copy", "began_at": "2023-11-14T22:13:20.000Z", "ended_at": "2023-11-14T22:13:22.000Z",
        })
    );
}

#[test]
fn a_task_reads_well() {
    let expected = "\
id:       0123456789abcdefghjkm
name:     shop
status:   running
phase:    copy
from:     ann@old:5432/shop
to:       ann@new:5432/shop
rows:     1,500 of 3,000
bytes:    1.0 MiB of 2.0 MiB
tables:   1 of 2
created:  2023-11-14T22:13:20.000Z

TABLE          STATUS             ROWS               BYTES  SHARDS  CAUSE
public.orders  copying  1,500 of 3,000  1.0 MiB of 2.0 MiB     1/2

RUNNING  WHAT                   AGENT  ROWS    BYTES
copy     public.orders shard 1  a1       10  2.0 KiB";
    assert_eq!(TaskView::from(task()).to_text(), expected);
}

#[test]
fn a_list_and_a_summary_read_well() {
    let done = TaskView::from(task());
    let expected = "\
ID                     NAME  STATUS   PHASE  DONE   ROWS    BYTES  CREATED
0123456789abcdefghjkm  shop  running  copy    50%  1,500  1.0 MiB  2023-11-14T22:13:20.000Z";
    assert_eq!(tasks_table(std::slice::from_ref(&done)), expected);
    assert_eq!(done.summary(), "shop: 2 tables, 1,500 rows, 1.0 MiB\n  copy      2.0s, 512 KiB/s");
}
