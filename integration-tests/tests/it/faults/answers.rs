//! The answer to a commit is lost: was it done, or not?

use super::COMMIT;
use crate::world::{Fleet, Gate, Pair, Roads};

/// The same for a statement of the schema with its mark, which are one message.
const COMMIT_AT_THE_END: &[u8] = b";\ncommit\0";

#[tokio::test]
async fn cluster_a_commit_whose_answer_is_lost_is_found_done() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let roads = Roads::to(&pair).await;
    let shards = roads.destination.lose_answers_to(COMMIT, 4);
    let schema = roads.destination.lose_answers_to(COMMIT_AT_THE_END, 2);
    let job = fleet.begin(&roads.task_file(&pair, "shop", Gate::COPY)).await;
    let task = job.done(&pair).await;
    assert_eq!((shards.caught(), schema.caught()), (4, 2), "commits that met the fault");
    let failed = job.events("unit_failed").await;
    assert!(failed.len() >= 6, "{failed:?}");
    assert!(task.tables.iter().all(|table| table.generation == 1), "nothing was begun anew");
}
