//! Whether it pays to compress what is sent.
//!
//! Compressing takes the processor time of a machine that may have better to do, and helps only where the link is what
//! everybody waits for: not where rows are read slower than it takes them, and not where the receiver is slow. None of
//! this is known beforehand, and it changes. So it is measured, each stream for itself, by what a byte costs its sender:
//! the time that it waited until there was room to send, and the time for compressing.
//!
//! 1. As they are, bytes are sent for one [`STRETCH`]. If they cost next to nothing, that is how it stays.
//! 2. Otherwise the following ones are compressed. The first of them are not looked at: while there are still others
//!    under way, room is made by those ([`SETTLING`]).
//! 3. A stretch is measured. If a byte costs less than it did, the stream stays compressed, and after [`PROVEN`] begins
//!    again at 1; if not, it goes on as it was for as long.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// What is measured at a time: more than a moment's luck, less than a shard.
const STRETCH: u64 = 4 * MIB;

/// More than may be under way, were it compressed to an eighth.
const SETTLING: u64 = 64 * MIB;

/// How long an answer is good for.
const PROVEN: u64 = 1024 * MIB;

/// Cheaper than this a byte cannot be made: twice what compressing costs.
const CHEAP: Duration = Duration::from_millis(6);

/// Measures a stream as it is sent.
#[derive(Debug, Clone)]
pub struct Gauge {
    stage: Stage,
    /// Bytes of the stage, and what they cost.
    bytes: u64,
    cost: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// As they are, and measured.
    Plain,
    /// Compressed, until all that is under way is. What a mebibyte cost before.
    Settling { before: Duration },
    /// Compressed, and measured.
    Trial { before: Duration },
    /// One way or the other, for a while.
    Decided { compressed: bool },
}

impl Default for Gauge {
    fn default() -> Self {
        Self { stage: Stage::Plain, bytes: 0, cost: Duration::ZERO }
    }
}

impl Gauge {
    /// Whether the next bytes are to be compressed.
    pub fn compresses(&self) -> bool {
        match self.stage {
            Stage::Plain => false,
            Stage::Settling { .. } | Stage::Trial { .. } => true,
            Stage::Decided { compressed } => compressed,
        }
    }

    /// So many bytes (as they are) were sent in the way that was asked for, and took so long.
    pub fn sent(&mut self, bytes: usize, cost: Duration) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.cost = self.cost.saturating_add(cost);
        let whole = match self.stage {
            Stage::Plain | Stage::Trial { .. } => STRETCH,
            Stage::Settling { .. } => SETTLING,
            Stage::Decided { .. } => PROVEN,
        };
        if self.bytes < whole {
            return;
        }
        let cost = self.cost.div_f64(self.bytes as f64 / MIB as f64);
        self.stage = match self.stage {
            Stage::Plain if cost < CHEAP => Stage::Plain,
            Stage::Plain => Stage::Settling { before: cost },
            Stage::Settling { before } => Stage::Trial { before },
            Stage::Trial { before } => Stage::Decided { compressed: cost < before },
            Stage::Decided { .. } => Stage::Plain,
        };
        self.bytes = 0;
        self.cost = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 64 * 1024;

    /// Sends so many mebibytes; how many of them were compressed.
    fn send(gauge: &mut Gauge, mib: u64, per_mib: impl Fn(bool) -> Duration) -> u64 {
        let mut compressed = 0;
        for _ in 0..mib * 16 {
            let way = gauge.compresses();
            compressed += u64::from(way);
            gauge.sent(FRAME, per_mib(way) / 16);
        }
        compressed / 16
    }

    const COMPRESSING: Duration = Duration::from_millis(3);

    #[test]
    fn a_link_that_nobody_waits_for_is_left_alone() {
        let mut gauge = Gauge::default();
        assert_eq!(send(&mut gauge, 4096, |_| Duration::from_micros(500)), 0);
    }

    #[test]
    fn a_slow_link_gets_compressed_bytes_but_for_a_look_now_and_then() {
        let mut gauge = Gauge::default();
        let slow = |compressed| match compressed {
            false => Duration::from_millis(160),
            true => Duration::from_millis(40) + COMPRESSING,
        };
        let compressed = send(&mut gauge, 4096, slow);
        assert!(compressed > 4096 * 98 / 100, "{compressed}");
    }

    #[test]
    fn a_slow_receiver_is_not_helped_by_compressing() {
        let mut gauge = Gauge::default();
        let slow = |compressed| match compressed {
            false => Duration::from_millis(30),
            true => Duration::from_millis(30) + COMPRESSING,
        };
        let compressed = send(&mut gauge, 4096, slow);
        assert!(compressed < 4096 * 10 / 100, "{compressed}");
    }

    #[test]
    fn what_cannot_be_compressed_goes_as_it_is() {
        let mut gauge = Gauge::default();
        send(&mut gauge, 128, |compressed| {
            Duration::from_millis(160) + if compressed { COMPRESSING } else { Duration::ZERO }
        });
        assert!(!gauge.compresses());
    }
}
