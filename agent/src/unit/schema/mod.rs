//! tmp
mod select;
mod text;
mod toc;
pub(super) mod pre {
    use super::super::*;
    pub(crate) async fn run(_c: &UnitContext) -> Result<WorkResult, UnitEnd> {
        std::future::pending().await
    }
}
