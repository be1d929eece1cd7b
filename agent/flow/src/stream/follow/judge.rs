//! Decides on one change of one table. Nothing is changed by that.

use std::collections::BTreeMap;

use pgconvoy_shared::ids::TableNo;

use super::super::entry::{Act, Place};
use super::super::laws::{Law, Laws};
use super::super::message::{Change, OldRow, RelationId};
use super::super::snapshot::Snapshot;
use super::super::table::{Key, Mismatch, Table, Target};
use super::super::tuple::Tuple;
use super::super::window::Mode;
use super::{Followed, Unfollowable};

/// What is done about a change of one table.
pub(super) enum Verdict {
    Nothing,
    Acts(Mode, [Option<Act>; 2]),
    Park(Option<Mismatch>),
    Read(Key),
}

/// What is needed to decide on one change of one table.
pub(super) struct Judge<'a> {
    pub(super) laws: Laws,
    pub(super) reread: &'a BTreeMap<(TableNo, Key), Snapshot>,
    pub(super) target: &'a Target,
    pub(super) place: Place,
}

impl Judge<'_> {
    pub(super) fn judge(
        &self,
        followed: &Followed,
        relation: RelationId,
        change: &Change,
    ) -> Result<Verdict, Unfollowable> {
        let now = followed.now.as_ref().ok_or(Unfollowable::UnknownRelation(relation))?;
        let Place { xid, commit_lsn, .. } = self.place;
        let Some(mode) = followed.table.window.mode(self.laws, xid, commit_lsn) else {
            return Ok(Verdict::Nothing);
        };
        if followed.table.parked {
            return Ok(Verdict::Park(None));
        }
        if let Err(mismatch) = &now.order {
            return Ok(Verdict::Park(Some(mismatch.clone())));
        }
        let identity = now.relation.replica_identity;
        let bad = |what| Unfollowable::BadRow { relation, place: self.place, what };
        let columns = now.relation.columns.len();
        let row = |row: &Tuple| {
            if row.len() == columns { Ok(followed.row(row)) } else { Err(bad("columns missing")) }
        };
        let acts = |first, second| Ok(Verdict::Acts(mode, [Some(first), second]));
        match change {
            Change::Truncate { restart_identity, .. } => {
                acts(Act::Truncate { restart_identity: *restart_identity }, None)
            }
            Change::Insert { new, .. } => {
                let new = row(new)?;
                if !new.is_whole() {
                    return Err(bad("an insert that leaves out values"));
                }
                acts(if self.target.is_keyless() { Act::Add(new) } else { Act::Insert(new) }, None)
            }
            Change::Delete { old, .. } => match self.old(old, &row)? {
                Some(Old::Row(old)) => acts(Act::Take(old), None),
                Some(Old::Key(key)) => acts(Act::Delete(key), None),
                None => Ok(Verdict::Park(Some(Mismatch::KeyNotTold(identity)))),
            },
            Change::Update { old, new, .. } => {
                let mut new = row(new)?;
                if let Some(OldRow::Full(old)) = old {
                    new = new.over(&row(old)?);
                } else if let Some(OldRow::Key(old)) = old {
                    new = self.with_key_of(&new, &row(old)?);
                }
                let Some(old) = old else {
                    if self.target.is_keyless() {
                        return Ok(Verdict::Park(Some(Mismatch::KeyNotTold(identity))));
                    }
                    let key = self.target.key_of(&new);
                    if !key.is_whole() {
                        return Err(bad("a key that is not told"));
                    }
                    return acts(Act::Update { key, row: new }, None);
                };
                match self.old(old, &row)? {
                    Some(Old::Row(old)) => acts(Act::Take(old), Some(Act::Add(new))),
                    Some(Old::Key(from)) => Ok(self.update(&followed.table, mode, from, new)),
                    None => Ok(Verdict::Park(Some(Mismatch::KeyNotTold(identity)))),
                }
            }
        }
    }

    /// What is told of an old row; none where that is not enough to find it.
    fn old(
        &self,
        old: &OldRow,
        row: &impl Fn(&Tuple) -> Result<Tuple, Unfollowable>,
    ) -> Result<Option<Old>, Unfollowable> {
        let told = row(old.tuple())?;
        Ok(match (self.target.is_keyless(), old) {
            (true, OldRow::Full(_)) => Some(Old::Row(told)),
            (true, OldRow::Key(_)) => None,
            (false, _) => Some(Old::Key(self.target.key_of(&told))),
        })
    }

    /// A key that is stored apart is told by the old row alone if it did not change.
    fn with_key_of(&self, new: &Tuple, old: &Tuple) -> Tuple {
        if new.is_whole() {
            return new.clone();
        }
        let in_key = |column| self.target.key.iter().any(|key| key.column == column);
        let fields = new.fields().zip(old.fields()).enumerate();
        let known = fields.map(
            |(column, (new, old))| {
                if new.is_unchanged() && in_key(column) { old } else { new }
            },
        );
        Tuple::from_fields(known)
    }

    /// An update whose old key is told.
    fn update(&self, table: &Table, mode: Mode, from: Key, row: Tuple) -> Verdict {
        let key = self.target.key_of(&row);
        let acts = |first, second| Verdict::Acts(mode, [Some(first), second]);
        if key == from {
            acts(Act::Update { key, row }, None)
        } else if row.is_whole() {
            acts(Act::Delete(from), Some(Act::Insert(row)))
        } else if mode == Mode::Strict || self.is_as_it_was(table, &from) {
            acts(Act::Move { from, row }, None)
        } else {
            Verdict::Read(key)
        }
    }

    /// Whether the destination's row under this key is as the source's was before this transaction: nobody who copied it had
    /// seen the transaction (law S8).
    fn is_as_it_was(&self, table: &Table, from: &Key) -> bool {
        let xid = self.place.xid;
        let reread = self.reread.get(&(table.no, from.clone()));
        let copied_after = table.window.copied_after(xid) && self.laws.hold(Law::MoveUnseen);
        let reread_after = reread.is_some_and(|snapshot| snapshot.shows(xid))
            && self.laws.hold(Law::MoveNotReread);
        !copied_after && !reread_after
    }
}

/// How the row of a change is found.
enum Old {
    Key(Key),
    Row(Tuple),
}
