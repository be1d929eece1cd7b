//! A source that stays in use: every change arrives, once and in order.

mod compared;
mod faults;
mod feedback;
mod live;
mod meaning;
mod parked;
