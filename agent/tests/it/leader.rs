//! A leader that does what a test says, over the in-process transport.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::Stream;
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::convert::{Leased, ReportBody};
use pgconvoy_proto::status::{FAILURE_TYPE, LEADER_KEY};
use pgconvoy_proto::v1::agent_message::Message as FromAgent;
use pgconvoy_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use pgconvoy_proto::v1::leader_message::Message as ToAgent;
use pgconvoy_proto::v1::{self, LeaderMessage};
use pgconvoy_runtime::memory::Hub;
use pgconvoy_runtime::tasks::{self, Owned};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitId;
use pgconvoy_shared::unit::{Ended, ResultPart};
use prost::Message as _;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::pb;

/// Ample on a loaded machine; nothing waits that long when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What was said, and how to behave.
#[derive(Debug, Default)]
struct Book {
    hellos: Vec<v1::Hello>,
    heartbeats: u64,
    reports: Vec<v1::UnitReport>,
    keepers: Vec<v1::KeeperOpened>,
    goodbyes: u32,
    /// Towards the agent, while a session is open.
    session: Option<mpsc::UnboundedSender<Result<LeaderMessage, Status>>>,
    mute: bool,
    forgetful: bool,
    closed: bool,
    /// What a session is refused with, if it is: the leader's address.
    elsewhere: Option<String>,
    /// What every agent is refused for.
    refusal: Option<Failure>,
    refused: u32,
}

/// The scripted leader.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    book: Arc<Mutex<Book>>,
    lease_ms: u32,
    hub: Hub,
    _server: Arc<Owned<()>>,
}

impl Leader {
    /// A leader whose leases last that long; heartbeats are wanted eight times as often.
    pub(crate) fn start(lease_ms: u32) -> Self {
        let hub = Hub::new();
        let book: Arc<Mutex<Book>> = Arc::default();
        let service = Service { book: Arc::clone(&book), lease_ms };
        let incoming = hub.incoming();
        let server = tasks::owned("scripted leader", async move {
            let server = tonic::transport::Server::builder();
            let served = server.clone().add_service(AgentServiceServer::new(service));
            served.serve_with_incoming(incoming).await.expect("the transport has no errors");
        });
        Self { book, lease_ms, hub, _server: Arc::new(server) }
    }

    /// A follower on TCP that names `leader`; answers its address.
    pub(crate) async fn follower(leader: &str) -> (String, Owned<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let book = Book { elsewhere: Some(leader.to_owned()), ..Book::default() };
        let service = Service { book: Arc::new(Mutex::new(book)), lease_ms: 1000 };
        let server = tasks::owned("scripted follower", async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(incoming);
            served.await.expect("loopback works");
        });
        (address, server)
    }

    /// Lets agents reach this leader on TCP too; answers its address.
    pub(crate) async fn listen(&self) -> (String, Owned<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let service = Service { book: Arc::clone(&self.book), lease_ms: self.lease_ms };
        let server = tasks::owned("scripted leader on TCP", async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(incoming);
            served.await.expect("loopback works");
        });
        (address, server)
    }

    pub(crate) fn channel(&self) -> tonic::transport::Channel {
        self.hub.channel()
    }

    /// Leases a unit over the open session.
    pub(crate) async fn lease(&self, leased: Leased) {
        self.say(ToAgent::Lease(leased.into())).await;
    }

    pub(crate) async fn revoke(&self, unit: &UnitId, epoch: Epoch) {
        let (task_id, unit) = (unit.task.to_string(), unit.no.0);
        self.say(ToAgent::Revoke(v1::Revoke { task_id, unit, epoch: epoch.0 })).await;
    }

    async fn say(&self, message: ToAgent) {
        let session = self.until("a session", |book| book.session.clone()).await;
        let message = LeaderMessage { message: Some(message) };
        session.send(Ok(message)).expect("the session is open");
    }

    /// Ends the open session.
    pub(crate) fn cut(&self) {
        self.book().session = None;
    }

    /// Takes no sessions while closed.
    pub(crate) fn close(&self, closed: bool) {
        let mut book = self.book();
        book.closed = closed;
        if closed {
            book.session = None;
        }
    }

    /// Refuses all sessions from now on; the open one ends.
    pub(crate) fn refuse(&self, failure: Option<Failure>) {
        let mut book = self.book();
        book.refusal = failure;
        book.session = None;
    }

    /// Waits for that many refusals.
    pub(crate) async fn refusals(&self, count: u32) {
        self.until("refusals", |book| (book.refused >= count).then_some(())).await;
    }

    /// Answers no heartbeats while mute.
    pub(crate) fn mute(&self, mute: bool) {
        self.book().mute = mute;
    }

    /// Acknowledges no reports while forgetful.
    pub(crate) fn forgetful(&self, forgetful: bool) {
        self.book().forgetful = forgetful;
    }

    pub(crate) fn hellos(&self) -> Vec<v1::Hello> {
        self.book().hellos.clone()
    }

    pub(crate) fn reports(&self) -> Vec<v1::UnitReport> {
        self.book().reports.clone()
    }

    /// Waits for that many sessions to have begun.
    pub(crate) async fn sessions(&self, count: usize) {
        self.until("sessions", |book| (book.hellos.len() >= count).then_some(())).await;
    }

    pub(crate) async fn heartbeats(&self, count: u64) {
        let wanted = self.book().heartbeats + count;
        self.until("heartbeats", |book| (book.heartbeats >= wanted).then_some(())).await;
    }

    pub(crate) async fn goodbye(&self) {
        self.until("a goodbye", |book| (book.goodbyes > 0).then_some(())).await;
    }

    /// Waits for the end of a lease.
    pub(crate) async fn ended(&self, unit: &UnitId, epoch: Epoch) -> Ended {
        let said = |report: &v1::UnitReport| {
            report.epoch == epoch.0
                && report.unit == unit.no.0
                && report.task_id == unit.task.as_str()
        };
        self.until("the end of a lease", |book| {
            book.reports.iter().filter(|report| said(report)).find_map(|report| {
                match body(report) {
                    ReportBody::Ended { ended, .. } => Some(ended),
                    ReportBody::Part { .. }
                    | ReportBody::Checkpoint(_)
                    | ReportBody::Parking(_)
                    | ReportBody::Note(_) => None,
                }
            })
        })
        .await
    }

    /// The pieces of a result so far.
    pub(crate) fn parts(&self, unit: &UnitId, epoch: Epoch) -> Vec<ResultPart> {
        let book = self.book();
        let reports = book.reports.iter().filter(|report| {
            report.epoch == epoch.0
                && report.unit == unit.no.0
                && report.task_id == unit.task.as_str()
        });
        reports
            .filter_map(|report| match body(report) {
                ReportBody::Part { part, .. } => Some(part),
                ReportBody::Ended { .. }
                | ReportBody::Checkpoint(_)
                | ReportBody::Parking(_)
                | ReportBody::Note(_) => None,
            })
            .collect()
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut(&Book) -> Option<T>) -> T {
        wait::until(LIMIT, what, async || look(&self.book()).ok_or("not yet"))
            .await
            .expect("it comes to pass")
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no test panics while it holds this lock")
    }
}

fn body(report: &v1::UnitReport) -> ReportBody {
    let body = report.body.clone().expect("a report says something");
    body.try_into().expect("a report that can be understood")
}

struct Service {
    book: Arc<Mutex<Book>>,
    lease_ms: u32,
}

type Answers = Pin<Box<dyn Stream<Item = Result<LeaderMessage, Status>> + Send>>;

#[expect(clippy::disallowed_methods, reason = "a scripted leader refuses as the real one does")]
fn refused(leader: Option<&str>) -> Status {
    let mut status = Status::unavailable("not the leader");
    if let Some(leader) = leader {
        let leader = leader.parse().expect("an address is ASCII");
        status.metadata_mut().insert(LEADER_KEY, leader);
    }
    status
}

#[expect(clippy::disallowed_methods, reason = "a scripted leader refuses as the real one does")]
fn forbidden(failure: Failure) -> Status {
    let ours = Any {
        type_url: FAILURE_TYPE.to_owned(),
        value: v1::Failure::from(failure).encode_to_vec(),
    };
    let details = pb::Status { details: vec![ours], ..Default::default() }.encode_to_vec();
    Status::with_details(Code::PermissionDenied, "refused", details.into())
}

#[expect(clippy::disallowed_methods, reason = "nobody asks a scripted leader for these")]
fn unknown() -> Status {
    Status::unimplemented("a scripted leader")
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Answers;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let (answer, answers) = mpsc::unbounded_channel();
        {
            let mut book = self.book.lock().expect("no test panics while it holds this lock");
            if let Some(failure) = book.refusal.clone() {
                book.refused += 1;
                return Err(forbidden(failure));
            }
            if book.closed || book.elsewhere.is_some() {
                return Err(refused(book.elsewhere.as_deref()));
            }
            book.session = Some(answer.clone());
        }
        let hears =
            hear(Arc::clone(&self.book), self.lease_ms, answer.downgrade(), request.into_inner());
        tasks::spawn(tasks::Kind::Worker, "scripted session", hears);
        let answers = tokio_stream::wrappers::UnboundedReceiverStream::new(answers);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        Err(unknown())
    }

    async fn drain_agent(
        &self,
        _: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        Err(unknown())
    }

    async fn undrain_agent(
        &self,
        _: Request<v1::UndrainAgentRequest>,
    ) -> Result<Response<v1::UndrainAgentResponse>, Status> {
        Err(unknown())
    }
}

/// Answers what an agent says; ends with the session.
async fn hear(
    book: Arc<Mutex<Book>>,
    lease_ms: u32,
    answer: mpsc::WeakUnboundedSender<Result<LeaderMessage, Status>>,
    mut incoming: Streaming<v1::AgentMessage>,
) {
    while let Ok(Some(said)) = incoming.message().await {
        let mut book = book.lock().expect("no test panics while it holds this lock");
        let reply = match said.message.expect("an agent says something") {
            FromAgent::Hello(hello) => {
                book.hellos.push(hello);
                Some(ToAgent::Challenge(v1::Challenge {}))
            }
            FromAgent::Present(v1::Present {}) => {
                let heartbeat_ms = lease_ms / 8;
                Some(ToAgent::Welcome(v1::Welcome { term: 1, lease_ms, heartbeat_ms }))
            }
            FromAgent::Heartbeat(heartbeat) => {
                book.heartbeats += 1;
                let ack = v1::HeartbeatAck { seq: heartbeat.seq };
                (!book.mute).then_some(ToAgent::HeartbeatAck(ack))
            }
            FromAgent::Report(report) => {
                let seq = report.seq;
                book.reports.push(report);
                let ack = v1::ReportAck { seq, accepted: true };
                (!book.forgetful).then_some(ToAgent::ReportAck(ack))
            }
            FromAgent::Keeper(keeper) => {
                book.keepers.push(keeper);
                None
            }
            FromAgent::Goodbye(v1::Goodbye {}) => {
                book.goodbyes += 1;
                book.session = None;
                return;
            }
        };
        let Some(answer) = answer.upgrade() else { return };
        if let Some(reply) = reply {
            // An agent that is gone hears nothing.
            drop(answer.send(Ok(LeaderMessage { message: Some(reply) })));
        }
    }
}
