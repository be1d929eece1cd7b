//! What a user has to know at the end of a task besides that it ended: above all which tables it left out. Each was told
//! by an event when it happened, hours ago perhaps and to nobody who looked.

use pgconvoy_proto::v1;

use crate::client::Cluster;
use crate::output::note;
use crate::problem::Problem;

/// The kinds of event that still matter at the end.
const KINDS: [&str; 4] = ["tables_not_migrated", "tables_gone", "snapshot_lost", "rows_start_anew"];

/// Tells them, one a line. The first ones may be missing where a task had more events than are kept.
pub(super) async fn tell(cluster: &Cluster, task: &str) -> Result<(), Problem> {
    let request = || v1::ListEventsRequest { task: task.to_owned(), after: 0, limit: 0 };
    let answer = cluster.tasks(async |mut client| client.list_events(request()).await).await?;
    for event in answer.events.iter().filter(|event| KINDS.contains(&event.kind.as_str())) {
        note(&format!("{}: {}", event.kind, event.message));
    }
    Ok(())
}
