//! A source that stays in use: every change arrives, once and in order.

mod faults;
mod live;
mod parked;
