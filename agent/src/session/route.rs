//! Which coordinator to try next, and when.
//!
//! Any of them will do for a first try: a follower answers UNAVAILABLE and names the leader. Such a hint is followed at
//! once, but only once in a row: two nodes that each hold the other for the leader cost a pause like any failure.

use std::time::Duration;

use pgconvoy_runtime::tls::{Dialer, TlsError};
use rand::RngExt;
use tonic::transport::Channel;
use tracing::warn;

use crate::config::Coordinators;
use crate::error::AgentError;

const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A small part of a usual lease, so that a leader that is back is found well before the lease runs down; and of an election,
/// which takes up to three seconds, so that a new leader gives out work soon after it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The way to the leader, as far as it is known.
#[derive(Debug)]
pub(super) struct Route {
    to: To,
    failures: u32,
    hint: Hint,
}

#[derive(Debug)]
enum To {
    Channel(Channel),
    Addresses { dialer: Dialer, addresses: Vec<String>, next: usize },
}

/// The leader as a follower named it.
#[derive(Debug)]
enum Hint {
    None,
    /// To be tried next.
    Fresh(String),
    /// Was tried last: another hint has to wait its pause.
    Followed,
}

impl Route {
    /// Reads certificates and addresses, so that what is wrong with them is told at the start.
    pub(super) fn new(coordinators: &Coordinators) -> Result<Self, AgentError> {
        let to = match coordinators {
            Coordinators::Channel(channel) => To::Channel(channel.clone()),
            Coordinators::Addresses { addresses, security } => {
                if addresses.is_empty() {
                    return Err(AgentError::NoCoordinator);
                }
                let dialer = Dialer::new(security).map_err(AgentError::Connection)?;
                for address in addresses {
                    dialer.channel(address).map_err(AgentError::Connection)?;
                }
                // Agents that start together do not all ask the same node first.
                let next = rand::rng().random_range(0..addresses.len());
                To::Addresses { dialer, addresses: addresses.clone(), next }
            }
        };
        Ok(Self { to, failures: 0, hint: Hint::None })
    }

    /// A channel to the next one to try, and what to call it.
    pub(super) fn next(&mut self) -> Result<(Channel, String), TlsError> {
        match &mut self.to {
            To::Channel(channel) => Ok((channel.clone(), "this process".to_owned())),
            To::Addresses { dialer, addresses, next } => {
                if let Hint::Fresh(leader) = std::mem::replace(&mut self.hint, Hint::None) {
                    self.hint = Hint::Followed;
                    return Ok((dialer.channel(&leader)?, leader));
                }
                let address = addresses[*next % addresses.len()].clone();
                *next = (*next + 1) % addresses.len();
                Ok((dialer.channel(&address)?, address))
            }
        }
    }

    /// The leader took us in.
    pub(super) fn arrived(&mut self) {
        self.failures = 0;
        self.hint = Hint::None;
    }

    /// It did not work, or is over: how long to wait before the next try.
    pub(super) fn failed(&mut self, leader: Option<String>) -> Duration {
        match (leader, &self.hint) {
            (Some(leader), Hint::None) => {
                self.hint = Hint::Fresh(leader);
                return Duration::ZERO;
            }
            (Some(leader), Hint::Fresh(_) | Hint::Followed) => self.hint = Hint::Fresh(leader),
            (None, _) => self.hint = Hint::None,
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        // Half of it to all of it: a thousand agents that lost one leader do not come back in one wave.
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// An address that cannot be dialled is skipped, and told.
    pub(super) fn unusable(&mut self, error: &TlsError) -> Duration {
        warn!("cannot dial a coordinator: {}", pgconvoy_runtime::telemetry::chain(error));
        self.failed(None)
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_runtime::tls::Security;

    use super::*;

    fn route(addresses: &[&str]) -> Route {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Route::new(&Coordinators::Addresses { addresses, security: Security::Plaintext })
            .expect("good addresses")
    }

    fn next(route: &mut Route) -> String {
        route.next().expect("a good address").1
    }

    #[tokio::test]
    async fn each_coordinator_gets_its_turn() {
        let mut route = route(&["127.0.0.1:1", "127.0.0.1:2"]);
        let first = next(&mut route);
        assert!(route.failed(None) > Duration::ZERO);
        let second = next(&mut route);
        assert_ne!(first, second);
        route.failed(None);
        assert_eq!(next(&mut route), first);
    }

    #[tokio::test]
    async fn a_hint_is_followed_at_once_but_not_in_circles() {
        let mut route = route(&["127.0.0.1:1"]);
        next(&mut route);
        assert_eq!(route.failed(Some("127.0.0.1:9".into())), Duration::ZERO);
        assert_eq!(next(&mut route), "127.0.0.1:9");
        assert!(route.failed(Some("127.0.0.1:1".into())) > Duration::ZERO);
        assert_eq!(next(&mut route), "127.0.0.1:1");
    }

    #[tokio::test]
    async fn pauses_grow_to_a_limit_and_begin_small_again_after_a_success() {
        let mut route = route(&["127.0.0.1:1"]);
        let pauses: Vec<_> = (0..12).map(|_| route.failed(None)).collect();
        assert!(pauses[0] <= PAUSE_MIN && pauses[11] >= PAUSE_MAX / 2);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        route.arrived();
        assert!(route.failed(None) <= PAUSE_MIN);
    }

    #[test]
    fn an_agent_without_coordinators_is_refused() {
        let none = Coordinators::Addresses { addresses: Vec::new(), security: Security::Plaintext };
        assert!(matches!(Route::new(&none), Err(AgentError::NoCoordinator)));
    }
}
