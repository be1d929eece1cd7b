//! Back-off arithmetic: written with the specification.
