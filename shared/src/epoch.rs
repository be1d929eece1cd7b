//! The two numbers that fence: both only grow, one step at a time.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! growing {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The next one. A task would need four thousand million of them to run out: our own bug then.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("grows by one for a lost lease or a new plan, never 2^32 times"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

growing!(
    /// Grows with each new lease of a unit: the fencing token of its owner. 0 = never leased.
    Epoch
);
growing!(
    /// Grows when a table is planned anew: fences whatever belongs to an older plan. The first plan is 1.
    Generation
);
