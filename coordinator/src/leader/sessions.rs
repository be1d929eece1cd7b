//! Which agents have a session open.
//!
//! An agent has at most one: a newer one closes the older one before it does anything, so that a
//! heartbeat is never answered on a stream whose agent has moved on. Which one is newer is told by
//! the question that each agent is asked before it is let in: its number is taken before it is
//! asked, so who answers lived after that. Of two lives of an agent the later one began, and was
//! asked, after the earlier one was dead: it has the larger number, however late the other one's
//! answer is read.
//!
//! An agent that is about to be
//! declared lost is *condemned*: its session is closed and none is opened until the log has decided,
//! so that no heartbeat of it is answered between the decision and its coming into force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, TaskId, UnitNo};
use pgconvoy_shared::unit::Progress;

use super::session::Session;

#[derive(Default)]
pub(super) struct Sessions {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    open: BTreeMap<AgentId, Arc<Session>>,
    condemned: BTreeSet<AgentId>,
    /// How many agents were asked whether they are there.
    questions: u64,
    /// Of each agent's newest session, open or not, the number of its question.
    newest: BTreeMap<AgentId, u64>,
    /// The office has ended: no session is opened any more.
    closed: bool,
}

/// Why a session is not opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// A little later it can be.
    NotNow,
    /// A newer one of the same agent was.
    Overtaken,
}

impl Sessions {
    /// The number of the question that an agent is about to be asked.
    pub(super) fn question(&self) -> u64 {
        let mut book = self.book();
        book.questions += 1;
        book.questions
    }

    /// Puts a session into the book and closes the agent's older one. What is queued meanwhile is
    /// queued in the order of the sessions.
    pub(super) fn open<T>(
        &self,
        session: &Arc<Session>,
        queue: impl FnOnce() -> T,
    ) -> Result<T, NotOpened> {
        let mut book = self.book();
        if book.closed || book.condemned.contains(&session.agent) {
            return Err(NotOpened::NotNow);
        }
        if book.newest.get(&session.agent).is_some_and(|newest| *newest > session.question) {
            return Err(NotOpened::Overtaken);
        }
        book.newest.insert(session.agent.clone(), session.question);
        if let Some(older) = book.open.insert(session.agent.clone(), Arc::clone(session)) {
            older.close();
        }
        Ok(queue())
    }

    /// Takes a session out of the book, unless a newer one stands there.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        session.close();
        let mut book = self.book();
        if book.open.get(&session.agent).is_some_and(|open| Arc::ptr_eq(open, session)) {
            book.open.remove(&session.agent);
        }
    }

    /// Closes an agent's session; none is opened before [`Sessions::pardon`].
    pub(super) fn condemn(&self, agent: &AgentId) {
        let mut book = self.book();
        book.condemned.insert(agent.clone());
        if let Some(session) = book.open.remove(agent) {
            session.close();
        }
    }

    /// The log has decided.
    pub(super) fn pardon(&self, agent: &AgentId) {
        self.book().condemned.remove(agent);
    }

    pub(super) fn get(&self, agent: &AgentId) -> Option<Arc<Session>> {
        self.book().open.get(agent).map(Arc::clone)
    }

    /// Sessions whose agents are registered.
    pub(super) fn registered(&self) -> Vec<Arc<Session>> {
        let book = self.book();
        book.open.values().filter(|session| session.is_registered()).map(Arc::clone).collect()
    }

    /// For the end of the office.
    pub(super) fn close_all(&self) {
        let mut book = self.book();
        book.closed = true;
        for session in std::mem::take(&mut book.open).into_values() {
            session.close();
        }
    }

    /// How far the running units of a task are.
    pub(super) fn progress(&self, task: &TaskId) -> BTreeMap<UnitNo, (Epoch, Progress)> {
        let sessions: Vec<_> = self.book().open.values().map(Arc::clone).collect();
        sessions.iter().flat_map(|session| session.progress(task)).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_proto::v1;
    use pgconvoy_proto::v1::leader_message::Message;
    use pgconvoy_shared::ids::Incarnation;
    use tokio::sync::mpsc;

    use super::*;
    use crate::metrics::Metrics;

    fn session(agent: &str, question: u64) -> Arc<Session> {
        let (outbox, _agent_is_gone) = mpsc::channel(1);
        let agent = agent.parse().unwrap();
        let metrics = Arc::new(Metrics::new());
        Arc::new(Session::new(agent, Incarnation(1), question, outbox, metrics))
    }

    fn open(sessions: &Sessions, session: &Arc<Session>) -> Result<(), NotOpened> {
        sessions.open(session, || ())
    }

    #[test]
    fn a_newer_session_closes_the_older_one_and_outlives_its_end() {
        let sessions = Sessions::default();
        let (older, newer) = (session("a", 1), session("a", 2));
        open(&sessions, &older).unwrap();
        open(&sessions, &newer).unwrap();
        assert!(older.is_closed() && !newer.is_closed());
        sessions.remove(&older);
        let known = sessions.get(&newer.agent).unwrap();
        assert!(Arc::ptr_eq(&known, &newer));
    }

    #[test]
    fn an_answer_that_is_read_late_opens_nothing() {
        let sessions = Sessions::default();
        let (late, newer) = (session("a", sessions.question()), session("a", sessions.question()));
        open(&sessions, &newer).unwrap();
        let queue = || panic!("nothing is queued for a session that is not opened");
        assert_eq!(sessions.open(&late, queue), Err(NotOpened::Overtaken));
        assert!(!newer.is_closed());
        sessions.remove(&newer);
        assert_eq!(open(&sessions, &late), Err(NotOpened::Overtaken));
        assert_eq!(open(&sessions, &session("a", sessions.question())), Ok(()));
    }

    #[test]
    fn a_condemned_agent_has_no_session_until_the_log_has_decided() {
        let sessions = Sessions::default();
        let first = session("a", 1);
        open(&sessions, &first).unwrap();
        sessions.condemn(&first.agent);
        assert!(first.is_closed());
        let second = session("a", 2);
        assert_eq!(open(&sessions, &second), Err(NotOpened::NotNow));
        assert_eq!(open(&sessions, &session("b", 1)), Ok(()));
        sessions.pardon(&first.agent);
        assert_eq!(open(&sessions, &second), Ok(()));
    }

    #[test]
    fn an_agent_that_is_not_registered_is_given_no_orders() {
        let sessions = Sessions::default();
        let session = session("a", 1);
        open(&sessions, &session).unwrap();
        assert!(sessions.registered().is_empty());
        session.registered();
        assert_eq!(sessions.registered().len(), 1);
    }

    #[test]
    fn an_agent_that_does_not_take_what_it_is_told_loses_its_session() {
        let (outbox, mut agent) = mpsc::channel(1);
        let metrics = Arc::new(Metrics::new());
        let id = "a".parse().unwrap();
        let session = Session::new(id, Incarnation(1), 1, outbox, Arc::clone(&metrics));
        let ack = |seq| Message::HeartbeatAck(v1::HeartbeatAck { seq });
        session.send(ack(1));
        assert!(!session.is_closed());
        session.send(ack(2));
        assert!(session.is_closed());
        assert_eq!(metrics.sessions_dropped.get(), 1);
        assert_eq!(agent.try_recv().unwrap().unwrap().message, Some(ack(1)));
        session.send(ack(3));
        assert!(agent.try_recv().is_err(), "nothing is said after the end");
    }

    #[test]
    fn the_end_of_the_office_closes_all() {
        let sessions = Sessions::default();
        let session = session("a", 1);
        open(&sessions, &session).unwrap();
        sessions.close_all();
        assert!(session.is_closed());
        assert_eq!(open(&sessions, &session), Err(NotOpened::NotNow));
    }
}
