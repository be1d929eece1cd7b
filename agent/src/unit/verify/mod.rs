//! Verification: whether source and destination hold the same.
//!
//! - [`plan`]: how a table's rows can be compared, and by which shards;
//! - [`rows`]: the rows of one shard, each end's as [`reading`] gives them;
//! - [`relook`]: looking again at what differs while a stream is followed;
//! - [`schema`](crate::unit::schema): what pg_dump says of both ends, statement by statement;
//! - [`sequences`]: where sequences stand.
//!
//! Nothing is written at either end. Every unit may be run again by anyone.

mod list;
pub(super) mod plan;
mod reading;
mod relook;
pub(super) mod rows;
pub(super) mod sequences;

use pgconvoy_shared::unit::WorkResult;

use super::{UnitContext, UnitEnd};

pub(super) use reading::{bad_data, see_bytes_as_they_are};

/// Compares the schemas.
pub(super) async fn schema(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    Ok(WorkResult::VerifySchema(super::schema::compare(ctx).await?))
}
