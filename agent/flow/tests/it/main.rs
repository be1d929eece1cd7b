//! Tests of the data plane from outside: a stream that a server sent, and random histories of a source.

mod history;
mod recorded;
