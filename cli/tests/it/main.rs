//! The binary as its users and their scripts meet it.

mod cancelled;
mod embedded;
mod errors;
mod help;
mod run;
mod tools;
