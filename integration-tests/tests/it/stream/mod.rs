//! A source that stays in use: every change arrives, once and in order.

mod faults;
mod identity;
mod live;
mod parked;
