//! The only place that starts a task.
//!
//! A bare `tokio::spawn` loses errors and panics in a handle that nobody awaits. Here each task
//! has a name, which stands in its log lines, and one of three owners who hears of its end:
//!
//! - [`Kind::Critical`]: the process. An error or a panic asks it to shut down.
//! - [`Kind::Worker`]: the log. An error or a panic is logged; others go on.
//! - [`owned`]: the caller. It gets the value or the panic, and dropping the handle ends the task.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tracing::{Instrument, error, info_span};

use crate::shutdown::{Reason, Shutdown};
use crate::telemetry::chain;

/// Who hears of a task's bad end.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The process cannot do without it: its bad end begins this shutdown.
    Critical(Shutdown),
    /// Others can go on: its bad end is logged.
    Worker,
}

/// How a task may end: `()` cannot fail, a `Result` can.
pub trait Outcome: Send + 'static {
    /// The cause, when it ended badly.
    fn failure(&self) -> Option<String>;
}

impl Outcome for () {
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<E: Error + Send + 'static> Outcome for Result<(), E> {
    fn failure(&self) -> Option<String> {
        self.as_ref().err().map(|error| chain(error))
    }
}

/// Starts a task that nobody waits for. Aborting the handle is no bad end.
pub fn spawn<F>(kind: Kind, name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<()>
where
    F: Future<Output: Outcome> + Send + 'static,
{
    let name = name.into();
    let span = info_span!("task", %name);
    let watched = async move {
        let failure = match AssertUnwindSafe(future).catch_unwind().await {
            Ok(outcome) => outcome.failure(),
            Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
        };
        match (failure, kind) {
            (None, _) => {}
            (Some(cause), Kind::Worker) => error!("task `{name}` failed: {cause}"),
            (Some(cause), Kind::Critical(shutdown)) => {
                shutdown.begin(Reason::Failed { task: name.into_owned(), cause });
            }
        }
    };
    start(watched.instrument(span))
}

/// Starts a task whose value its owner takes by awaiting the handle.
pub fn owned<F>(name: impl Into<Cow<'static, str>>, future: F) -> Owned<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let name = name.into();
    let span = info_span!("task", %name);
    Owned { handle: start(future.instrument(span)), name }
}

/// Runs what blocks (files, DNS, much computing) where it holds up nobody. It cannot be cancelled:
/// once begun it runs to its end, awaited or not.
pub async fn blocking<T: Send + 'static>(
    name: impl Into<Cow<'static, str>>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Died> {
    Owned { handle: start_blocking(work), name: name.into() }.await
}

/// A task of the caller's: gives its value, and ends with this handle.
#[derive(Debug)]
#[must_use = "dropping the handle ends the task"]
pub struct Owned<T> {
    handle: JoinHandle<T>,
    name: Cow<'static, str>,
}

impl<T> Owned<T> {
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Asks the task to end where it next waits; awaiting then gives [`Died::Cancelled`].
    pub fn cancel(&self) {
        self.handle.abort();
    }
}

/// An owned task ended without a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Died {
    #[error("task `{task}` panicked: {message}")]
    Panicked { task: String, message: String },
    #[error("task `{task}` was cancelled")]
    Cancelled { task: String },
}

impl<T> Future for Owned<T> {
    type Output = Result<T, Died>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.handle).poll(cx));
        Poll::Ready(ended.map_err(|error| {
            let task = self.name.clone().into_owned();
            match error.try_into_panic() {
                Ok(panic) => Died::Panicked { task, message: panic_text(&*panic).to_owned() },
                Err(_cancelled) => Died::Cancelled { task },
            }
        }))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[expect(clippy::disallowed_methods, reason = "this module is what is to be used instead")]
fn start<F: Future<Output: Send> + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio::spawn(future)
}

#[expect(clippy::disallowed_methods, reason = "this module is what is to be used instead")]
fn start_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
