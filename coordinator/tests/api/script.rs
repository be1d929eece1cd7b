//! An agent that answers what is in its script instead of running anything.

use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_message::Message as FromAgent;
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::leader_message::Message as ToAgent;
use pgconvoy_proto::v1::unit_report::Body;
use pgconvoy_proto::v1::work::Kind;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::world::{HEARTBEAT_MS, LIMIT};

/// What one shard of the scripted source holds.
pub(crate) const ROWS: u64 = 1_000;
pub(crate) const BYTES: u64 = 64_000;

pub(crate) struct Agent {
    to_leader: mpsc::Sender<v1::AgentMessage>,
    from_leader: Streaming<v1::LeaderMessage>,
    reports: u64,
    heartbeats: u64,
    /// What it says in heartbeats.
    pub(crate) running: Vec<v1::UnitProgress>,
}

/// A lease of a work to be told apart from others.
pub(crate) fn kind(lease: &v1::Lease) -> &Kind {
    lease.work.as_ref().unwrap().kind.as_ref().unwrap()
}

pub(crate) fn is_copy(lease: &v1::Lease) -> bool {
    matches!(kind(lease), Kind::Copy(_))
}

pub(crate) fn hello(id: &str, incarnation: u64) -> v1::Hello {
    v1::Hello {
        agent_id: id.to_owned(),
        incarnation,
        slots: 4,
        version: "test".to_owned(),
        pg_dump_majors: vec![15],
        ..v1::Hello::default()
    }
}

impl Agent {
    /// Says hello and is welcome.
    pub(crate) async fn connect(channel: Channel, hello: v1::Hello) -> Result<Agent, Status> {
        let mut agent = Agent::knock(channel, hello).await?;
        agent.say(FromAgent::Present(v1::Present {})).await;
        match agent.next().await? {
            ToAgent::Welcome(_) => Ok(agent),
            other => panic!("{other:?} comes before the welcome"),
        }
    }

    /// Says hello and is asked whether it is there.
    pub(crate) async fn knock(channel: Channel, hello: v1::Hello) -> Result<Agent, Status> {
        let running = hello.running.clone();
        let (to_leader, outgoing) = mpsc::channel(64);
        to_leader.send(message(FromAgent::Hello(hello))).await.unwrap();
        let stream = AgentServiceClient::new(channel).session(ReceiverStream::new(outgoing)).await;
        let from_leader = stream?.into_inner();
        let mut agent = Agent { to_leader, from_leader, reports: 0, heartbeats: 0, running };
        match agent.next().await? {
            ToAgent::Challenge(_) => Ok(agent),
            other => panic!("{other:?} comes before the question"),
        }
    }

    pub(crate) async fn say(&self, message_: FromAgent) {
        // A stream that is over is found out by what comes next.
        let _over = self.to_leader.send(message(message_)).await;
    }

    /// The next message, whatever it is; none comes for too long is a failure of the test.
    pub(crate) async fn next(&mut self) -> Result<ToAgent, Status> {
        let said = timeout(LIMIT, self.from_leader.message()).await.expect("the leader is silent");
        let said = said?.unwrap_or_else(|| panic!("the leader ended the stream"));
        Ok(said.message.unwrap())
    }

    pub(crate) async fn beat(&mut self) -> u64 {
        self.heartbeats += 1;
        let heartbeat = v1::Heartbeat { seq: self.heartbeats, running: self.running.clone() };
        self.say(FromAgent::Heartbeat(heartbeat)).await;
        self.heartbeats
    }

    /// Waits for something, and goes on making itself heard.
    pub(crate) async fn wait<T>(
        &mut self,
        mut wanted: impl FnMut(ToAgent) -> Option<T>,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + LIMIT;
        let mut beats = interval(Duration::from_millis(HEARTBEAT_MS.into()));
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    self.beat().await;
                }
                said = self.from_leader.message() => {
                    let said = said?.expect("the leader ended the stream");
                    if let Some(found) = wanted(said.message.unwrap()) {
                        return Ok(found);
                    }
                }
            }
            assert!(Instant::now() < deadline, "what is waited for does not come");
        }
    }

    /// The next lease; it runs from then on.
    pub(crate) async fn lease(&mut self) -> v1::Lease {
        let lease = self.wait(|said| match said {
            ToAgent::Lease(lease) => Some(lease),
            _ => None,
        });
        let lease = lease.await.unwrap();
        self.running.push(v1::UnitProgress {
            task_id: lease.task_id.clone(),
            unit: lease.unit,
            epoch: lease.epoch,
            rows: 0,
            bytes: 0,
            stream: None,
            slot: None,
        });
        lease
    }

    /// Reports on a unit and waits for the acknowledgement; gives whether it was accepted.
    pub(crate) async fn report(&mut self, lease: &v1::Lease, body: Body) -> bool {
        self.reports += 1;
        let seq = self.reports;
        if !matches!(body, Body::Part(_)) {
            self.running.retain(|unit| unit.unit != lease.unit || unit.task_id != lease.task_id);
        }
        let report = v1::UnitReport {
            seq,
            task_id: lease.task_id.clone(),
            unit: lease.unit,
            epoch: lease.epoch,
            body: Some(body),
        };
        self.say(FromAgent::Report(report)).await;
        let acknowledged = self.wait(|said| match said {
            ToAgent::ReportAck(ack) if ack.seq == seq => Some(ack.accepted),
            _ => None,
        });
        acknowledged.await.unwrap()
    }

    /// Answers a lease as a working agent would.
    pub(crate) async fn work(&mut self, lease: &v1::Lease) {
        for body in script(kind(lease)) {
            assert!(self.report(lease, body).await, "a report on {lease:?} was not accepted");
        }
    }

    /// Works until a lease is as wanted, and leaves that one running.
    pub(crate) async fn work_until(&mut self, wanted: impl Fn(&v1::Lease) -> bool) -> v1::Lease {
        loop {
            let lease = self.lease().await;
            if wanted(&lease) {
                return lease;
            }
            self.work(&lease).await;
        }
    }
}

fn message(message: FromAgent) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn name() -> Option<v1::QualifiedName> {
    Some(v1::QualifiedName { schema: "public".to_owned(), name: "orders".to_owned() })
}

/// What a working agent answers: a source with one table, copied as a whole.
pub(crate) fn script(work: &Kind) -> Vec<Body> {
    use v1::done::Result as Of;
    use v1::result_part::Part;

    let done = |parts, result| Body::Done(v1::Done { parts, result: Some(result) });
    let part = |no, part| Body::Part(v1::ResultPart { no, part: Some(part) });
    match work {
        Kind::Precheck(_) => vec![done(0, Of::Precheck(v1::PrecheckDone { items: vec![] }))],
        Kind::SchemaPre(_) => {
            vec![done(0, Of::SchemaPre(v1::SchemaPreDone { entries_run: 1, entries_kept: 1 }))]
        }
        Kind::OpenStream(_) => vec![done(0, Of::OpenStream(v1::StreamOpened::default()))],
        // It goes on until it is told to stop. So nothing is in sync here, and nothing is cut over.
        Kind::Stream(_) | Kind::Cutover(_) => vec![],
        Kind::Survey(_) => {
            let table = v1::SurveyedTable {
                name: name(),
                bytes: BYTES,
                rows: ROWS,
                filenode: None,
                index_entries: vec![1],
                late_entries: vec![],
            };
            let survey = v1::SurveyDone { system_identifier: 7, ..v1::SurveyDone::default() };
            vec![
                part(0, Part::Tables(v1::SurveyedTables { tables: vec![table] })),
                done(1, Of::Survey(survey)),
            ]
        }
        Kind::Plan(v1::PlanWork { tables }) | Kind::VerifyPlan(v1::VerifyPlanWork { tables }) => {
            let result = match work {
                Kind::Plan(_) => Of::Plan(v1::PlanDone {}),
                _ => Of::VerifyPlan(v1::VerifyPlanDone {}),
            };
            let mut bodies = Vec::new();
            for table in tables {
                let planned = v1::TablePlan {
                    no: table.no,
                    generation: table.generation,
                    name: table.name.clone(),
                    write_to: table.name.clone(),
                    columns: vec!["id".to_owned()],
                    fingerprint: "f".to_owned(),
                    filenode: None,
                    format: v1::CopyFormat::Text.into(),
                    key: vec![],
                };
                let whole = v1::part::Part::Whole(v1::WholePart {});
                let shard = v1::PlannedShard {
                    part: Some(v1::Part { part: Some(whole) }),
                    bytes: BYTES,
                    rows: ROWS,
                };
                let next = u32::try_from(bodies.len()).unwrap();
                bodies.push(part(next, Part::Plan(planned)));
                let shards = v1::PlannedShards { shards: vec![shard] };
                bodies.push(part(next + 1, Part::Shards(shards)));
            }
            bodies.push(done(u32::try_from(bodies.len()).unwrap(), result));
            bodies
        }
        Kind::Copy(_) => vec![done(
            0,
            Of::Copy(v1::CopyDone {
                rows: ROWS,
                bytes: BYTES,
                snapshot: "10:10:".to_owned(),
                noted_lsn: 100,
                found_done: false,
            }),
        )],
        Kind::Audit(_) => vec![done(0, Of::Audit(v1::AuditDone { missing: vec![] }))],
        Kind::Index(_) => vec![done(0, Of::Index(v1::IndexDone {}))],
        Kind::SchemaPost(_) => {
            vec![done(0, Of::SchemaPost(v1::SchemaPostDone { entries_run: 1 }))]
        }
        Kind::Sequences(_) => vec![done(0, Of::Sequences(v1::SequencesDone { count: 1 }))],
        Kind::Analyze(_) => vec![done(0, Of::Analyze(v1::AnalyzeDone {}))],
        Kind::VerifyRows(_) => {
            let rows = v1::RowsCompared {
                source_rows: ROWS,
                destination_rows: ROWS,
                compared: ROWS,
                different: 1,
                ..Default::default()
            };
            vec![done(0, Of::VerifyRows(rows))]
        }
        Kind::VerifySchema(_) => vec![done(0, Of::VerifySchema(v1::ObjectsCompared::default()))],
        Kind::VerifySequences(_) => {
            vec![done(0, Of::VerifySequences(v1::ObjectsCompared::default()))]
        }
        Kind::Finish(_) => vec![done(0, Of::Finish(v1::FinishDone {}))],
    }
}
