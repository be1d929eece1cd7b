//! Tests of the data plane from outside: a stream that a server sent.

mod recorded;
