//! Tests of the data plane from outside: a stream that a server sent, and random histories of a source, and what is damaged.

mod chance;
mod damage;
mod history;
mod recorded;
