//! The wire: what goes out comes back the same, and what older versions sent is still understood.

mod any;
mod frozen;
mod round_trip;
