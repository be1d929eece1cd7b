//! Who a store belongs to.
//!
//! The store id is drawn when the directory is made. The cluster knows a node by its number *and*
//! its store id, so an emptied directory cannot answer for what the old one promised.

use std::fmt;

use pgconvoy_shared::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The layout of keys and values that this program writes.
pub(super) const DATA_VERSION: u32 = 1;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self)
            }
        }
    };
}

random_id! {
    /// One life of a data directory: random, drawn when it is made.
    StoreId
}

random_id! {
    /// A cluster, for ever. Made from its founding members.
    ClusterId
}

/// The first thing written into a store, and the first thing read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub data_version: u32,
    pub node: NodeId,
    pub store: StoreId,
    /// Set when the node becomes part of a cluster.
    pub cluster: Option<ClusterId>,
}
