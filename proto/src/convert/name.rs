//! Names of objects.

use pgconvoy_shared::name::QualifiedName;

use super::WireError;
use crate::v1;

impl From<QualifiedName> for v1::QualifiedName {
    fn from(name: QualifiedName) -> Self {
        Self { schema: name.schema.into(), name: name.name.into() }
    }
}

impl TryFrom<v1::QualifiedName> for QualifiedName {
    type Error = WireError;
    fn try_from(wire: v1::QualifiedName) -> Result<Self, WireError> {
        if wire.name.is_empty() {
            return Err(WireError::missing("name"));
        }
        Ok(Self::new(wire.schema, wire.name))
    }
}
