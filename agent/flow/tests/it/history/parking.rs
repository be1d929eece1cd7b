//! Tables that are parked for a while: their changes are kept at the destination, and applied when the table goes on.

use std::sync::Arc;

use pgconvoy_flow::stream::assemble::Item;
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::entry::Place;
use pgconvoy_flow::stream::message::Message;
use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;

use super::destination::Transaction;
use super::migration::{Migration, Owner};

impl Migration {
    /// Some change of a table is refused: whatever is not at the destination yet is kept. (Leaves of one root are truncated
    /// together, or parked for it; so they are left alone.)
    pub(super) fn park(&mut self, owner: &mut Owner) {
        let table = self.chance.below(self.source.shapes.len());
        if self.source.shapes[table].sibling.is_some() {
            return;
        }
        self.reached.note("a table was parked");
        let no = TableNo(u32::try_from(table).expect("few tables"));
        let beginning = Place { commit_lsn: Lsn(0), ordinal: 0, xid: FullXid(0) };
        for batch in &mut owner.batches {
            batch.park(no, beginning);
        }
        owner.follower.park(no);
        owner.parks.insert(table);
    }

    /// Whoever takes over lets parked tables go on, and may die before that arrives.
    pub(super) fn let_some_go_on(&mut self) -> Result<(), String> {
        let parked: Vec<usize> = self.destination.kept.keys().copied().collect();
        for table in parked {
            match self.chance.below(3) {
                0 => {}
                1 => {
                    let resumed = self.resumed(table)?;
                    self.is_in_flight(resumed);
                }
                _ => {
                    let resumed = self.resumed(table)?;
                    self.land(&resumed)?;
                }
            }
        }
        Ok(())
    }

    /// What is kept of a table, decided on anew.
    pub(super) fn resumed(&mut self, table: usize) -> Result<Transaction, String> {
        let kept = self.destination.kept.get(&table).cloned().unwrap_or_default();
        let progress = self.destination.progress;
        let mut tables = self.tables();
        tables[table].parked = false;
        let mut follower = self.follower(tables, Lsn(0), FullXid(0));
        for parked in kept {
            let received = Decoder::default().decode(parked.message);
            let item = match received.map_err(|error| error.to_string())?.message {
                Message::Relation(relation) => Item::Relation(Arc::new(relation)),
                Message::Change(change) => Item::Change(change),
                other => panic!("{other:?}"),
            };
            let wanted = follower.kept(parked.place, item).map_err(|error| error.to_string())?;
            if let Some(wanted) = wanted {
                let answer = self.read_again(&wanted);
                follower.answer(answer).map_err(|error| error.to_string())?;
            }
        }
        follower.kept_ends();
        let batches = vec![follower.cut()];
        let applied = progress.applied;
        let goes_on = Some(table);
        Ok(Transaction { expected: progress, applied, batches, parks: [].into(), goes_on })
    }
}
