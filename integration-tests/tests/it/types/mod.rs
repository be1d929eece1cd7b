//! Every type and every shape of table arrives as it is, from every major to every newer one.

mod large_objects;
mod matrix;
mod shapes;
