//! A source that stays in use: every change arrives, once and in order.

mod compared;
mod cutover;
mod faults;
mod live;
mod parked;
