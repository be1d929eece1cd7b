//! A migration: slot, barrier, plans, shards, and then the stream, by owners that die, come back and write late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use pgconvoy_flow::stream::assemble::{Assembler, Item, Step};
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::entry::{Batch, Notice};
use pgconvoy_flow::stream::follow::{Follower, RereadAnswer, RereadWanted};
use pgconvoy_flow::stream::message::{Commit, Xid};
use pgconvoy_flow::stream::snapshot::{FullXid, Snapshot};
use pgconvoy_flow::stream::table::{
    KeyColumn, Mismatch, SourceColumn, Table, Target, TargetColumn,
};
use pgconvoy_flow::stream::window::Window;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;

use super::Reached;
use super::bugs::{Bug, Bugs};
use super::destination::{Destination, Landed, Progress, Transaction, with_key};
use super::sender::{COLUMNS, Sender, TEXT_OID, name, relation_id, tuple};
use super::source::{KEY, Kind, Row, SHORT, Shape, Source};
use crate::chance::Chance;

pub(super) struct Migration {
    pub(super) chance: Chance,
    pub(super) source: Source,
    pub(super) destination: Destination,
    windows: Vec<Window>,
    /// What the slot was told.
    confirmed: Lsn,
    /// Sent, and neither landed nor refused.
    in_flight: VecDeque<Transaction>,
    bugs: Bugs,
    pub(super) reached: Reached,
}

/// Who applies the stream, for as long as its connections live.
pub(super) struct Owner {
    sender: Sender,
    decoder: Decoder,
    assembler: Assembler,
    pub(super) follower: Follower,
    spooled: BTreeMap<Xid, Vec<u8>>,
    progress: Progress,
    pub(super) batches: Vec<Batch>,
    /// Tables that it parked.
    pub(super) parks: BTreeSet<usize>,
}

impl Migration {
    pub(super) fn new(seed: u64, bugs: Bugs) -> Self {
        let mut chance = Chance::new(seed);
        let shapes = Shape::some(&mut chance);
        let target_of: Vec<usize> = shapes.iter().map(|shape| shape.target).collect();
        let mut kinds: Vec<Kind> = Vec::new();
        for shape in &shapes {
            kinds.truncate(shape.target);
            kinds.push(shape.kind);
        }
        let source = Source::new(shapes, &mut chance);
        let numbered = kinds.iter().enumerate();
        let targets = numbered.map(|(no, kind)| target(no, *kind, chance.happens(20))).collect();
        let destination = Destination {
            rows: vec![Vec::new(); kinds.len()],
            until: vec![Lsn(0); target_of.len()],
            target_of,
            kinds,
            targets,
            progress: Progress { epoch: 1, applied: Lsn(0), number: 0 },
            rereads: Vec::new(),
            kept: BTreeMap::new(),
            bugs,
        };
        Self {
            chance,
            source,
            destination,
            windows: Vec::new(),
            confirmed: Lsn(0),
            in_flight: VecDeque::new(),
            bugs,
            reached: Reached::default(),
        }
    }

    /// Runs it to its end; an error tells what is wrong.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.live(40);
        let barrier = self.open_slot();
        self.live(12);
        if self.bugs.hold(Bug::NoBarrier) {
            while self.source.snapshot().xmin() < FullXid(barrier) {
                self.source.step(&mut self.chance);
            }
        }
        self.copy();
        self.stream()
    }

    fn live(&mut self, most: usize) {
        for _ in 0..self.chance.below(most) {
            self.source.step(&mut self.chance);
        }
    }

    /// A slot's first transaction begins when none is running that it has not seen begin.
    fn open_slot(&mut self) -> u64 {
        self.source.end_all(&mut self.chance);
        self.confirmed = Lsn(self.source.insert_lsn);
        self.destination.progress.applied = self.confirmed;
        self.source.assign()
    }

    /// Leaves of one root are planned at one moment, and copied at one where they have no key: a truncate of the root is then
    /// in the copies of both or of none.
    fn copy(&mut self) {
        let shapes = self.source.shapes.clone();
        let mut shards: Vec<(Vec<usize>, (char, char))> = Vec::new();
        let mut plans: Vec<Snapshot> = Vec::new();
        for (table, shape) in shapes.iter().enumerate() {
            let lower = shape.sibling.filter(|sibling| *sibling < table);
            plans.push(lower.map_or_else(|| self.source.snapshot(), |lower| plans[lower].clone()));
            if shape.kind == Kind::Keyless {
                let both = [table].into_iter().chain(shape.sibling).collect();
                shards.extend(lower.is_none().then_some((both, ('a', 'z'))));
            } else if self.chance.happens(40) {
                shards.push((vec![table], ('a', 'z')));
            } else {
                let parts = [('a', 'b'), ('b', 'c'), ('c', 'z')];
                shards.extend(parts.map(|part| (vec![table], part)));
            }
            if shape.sibling.is_none_or(|sibling| sibling < table) {
                self.live(6);
            }
        }
        let mut snapshots: Vec<Vec<Snapshot>> = vec![Vec::new(); shapes.len()];
        while !shards.is_empty() {
            let (tables, part) = shards.swap_remove(self.chance.below(shards.len()));
            self.copy_shard(&tables, part, &mut snapshots);
        }
        self.windows = std::iter::zip(plans, snapshots)
            .enumerate()
            .map(|(table, (plan, mut shards))| match shapes[table].kind {
                Kind::Keyless => Window::OneSnapshot { copied: shards.remove(0) },
                _ => {
                    let until = self.destination.until[table];
                    Window::Keyed { plan, until, shards: shards.into() }
                }
            })
            .collect();
    }

    fn copy_shard(
        &mut self,
        tables: &[usize],
        part: (char, char),
        snapshots: &mut [Vec<Snapshot>],
    ) {
        let noted_before = Lsn(self.source.insert_lsn);
        self.live(12);
        // The shard's lock waits for whoever truncates; the snapshot comes after it.
        while tables.iter().any(|table| self.source.is_locked(*table)) {
            self.source.step(&mut self.chance);
        }
        let snapshot = self.source.snapshot();
        for table in tables {
            let is_in = |row: &&Row| {
                let first = row[KEY].to_ascii_lowercase();
                (part.0..part.1).contains(&first.chars().next().unwrap_or('a'))
            };
            let rows: Vec<Row> = self.source.read(*table).filter(is_in).cloned().collect();
            let late = Lsn(self.source.insert_lsn);
            let noted = if self.bugs.hold(Bug::NotedBeforeSnapshot) { late } else { noted_before };
            let until = &mut self.destination.until[*table];
            if snapshots[*table].is_empty() || self.bugs.hold(Bug::FirstShardsN) {
                *until = noted.max(*until);
            }
            self.destination.rows[self.source.shapes[*table].target].extend(rows);
            snapshots[*table].push(snapshot.clone());
        }
    }

    fn stream(&mut self) -> Result<(), String> {
        let mut owner = self.own();
        for _ in 0..150 {
            self.source.step(&mut self.chance);
            for _ in 0..self.chance.below(4) {
                self.receive(&mut owner)?;
            }
            if !self.bugs.hold(Bug::RowVanishes) {
                self.lose_a_row();
            }
            match self.chance.below(60) {
                0 => {
                    self.reached.note("an owner was replaced");
                    self.lose_contact(&mut owner)?;
                    self.destination.progress.epoch += 1;
                    self.let_some_go_on()?;
                    owner = self.own();
                }
                1 => {
                    self.reached.note("an owner connected again");
                    self.lose_contact(&mut owner)?;
                    owner = self.own();
                }
                2 => self.arrive_late()?,
                3 if owner.assembler.held() > 0 => self.spill(&mut owner),
                4 => self.park(&mut owner),
                _ => {}
            }
        }
        self.source.end_all(&mut self.chance);
        self.source.show_all();
        while !self.in_flight.is_empty() {
            self.arrive_late()?;
        }
        loop {
            while self.receive(&mut owner)? {}
            if !self.settle(&mut owner)? {
                continue;
            }
            let Some(table) = self.destination.kept.keys().next().copied() else { break };
            let resumed = self.resumed(table)?;
            self.land(&resumed)?;
            owner = self.own();
        }
        self.compare(Lsn(self.source.insert_lsn), "in the end")
    }

    /// The tables as whoever begins finds them.
    pub(super) fn tables(&self) -> Vec<Table> {
        let until = self.destination.until.clone();
        let table = |(no, window): (usize, &Window)| {
            let mut window = window.clone();
            if let Window::Keyed { until: at, .. } = &mut window {
                *at = until[no];
            }
            let text = |(place, name): (usize, &&str)| SourceColumn {
                name: (*name).into(),
                type_oid: TEXT_OID,
                type_modifier: -1,
                place,
            };
            Table {
                no: TableNo(no as u32),
                relation: relation_id(no),
                name: name(no),
                columns: COLUMNS.iter().enumerate().map(text).collect(),
                target: self.source.shapes[no].target,
                window,
                dropped: [].into(),
                parked: self.destination.kept.contains_key(&no),
            }
        };
        self.windows.iter().enumerate().map(table).collect()
    }

    pub(super) fn follower(&self, tables: Vec<Table>, applied: Lsn, near: FullXid) -> Follower {
        let targets = std::sync::Arc::clone(&self.destination.targets);
        let rereads = self.destination.rereads.clone();
        let follower = Follower::new(targets, tables, rereads, applied, near);
        #[cfg(feature = "lawless")]
        if let Some(law) = self.bugs.without {
            return follower.under(pgconvoy_flow::stream::laws::Laws::without(law));
        }
        follower
    }

    fn assembler(&self) -> Assembler {
        #[cfg(feature = "lawless")]
        if let Some(law) = self.bugs.without {
            return Assembler::default().under(pgconvoy_flow::stream::laws::Laws::without(law));
        }
        Assembler::default()
    }

    /// Whoever begins takes all from the destination.
    fn own(&mut self) -> Owner {
        let progress = self.destination.progress;
        let near = FullXid(self.source.next_xid);
        let follower = self.follower(self.tables(), progress.applied, near);
        let assembler = self.assembler();
        Owner {
            sender: Sender::new(self.confirmed),
            decoder: Decoder::default(),
            assembler,
            follower,
            spooled: BTreeMap::new(),
            progress,
            batches: Vec::new(),
            parks: BTreeSet::new(),
        }
    }

    /// The next message; false where there is none.
    fn receive(&mut self, owner: &mut Owner) -> Result<bool, String> {
        let Some(bytes) = owner.sender.next(&self.source) else { return Ok(false) };
        let received = owner.decoder.decode(bytes).map_err(|error| error.to_string())?;
        match owner.assembler.take(received).map_err(|error| error.to_string())? {
            Step::Kept | Step::Logical(_) => {}
            Step::RolledBack(xid) => drop(owner.spooled.remove(&xid)),
            Step::Begin(begin) => owner.follower.begin(begin).map_err(|error| error.to_string())?,
            Step::Item(item) => self.follow(owner, item)?,
            Step::Commit(commit) => self.commit(owner, commit)?,
            Step::Streamed(streamed) => {
                self.reached.note("a transaction came in blocks");
                let (begin, commit) = (streamed.begin, streamed.commit);
                owner.follower.begin(begin).map_err(|error| error.to_string())?;
                if let Some(spooled) = &streamed.spooled {
                    self.reached.note("a transaction was spilled");
                    let file = owner.spooled.remove(&begin.xid).unwrap_or_default();
                    let mut buffer = BytesMut::from(&file[..]);
                    while let Some(item) =
                        spooled.next(&mut buffer).map_err(|error| error.to_string())?
                    {
                        self.follow(owner, item)?;
                    }
                    assert!(buffer.is_empty());
                }
                for item in streamed.into_items() {
                    self.follow(owner, item)?;
                }
                self.commit(owner, commit)?;
            }
        }
        Ok(true)
    }

    fn follow(&mut self, owner: &mut Owner, item: Item) -> Result<(), String> {
        if let Some(wanted) = owner.follower.item(item).map_err(|error| error.to_string())? {
            let has_no_sibling = self.source.shapes[wanted.table.0 as usize].sibling.is_none();
            let answered = if has_no_sibling && self.chance.happens(8) {
                self.reached.note("it could not be read again");
                owner.follower.cannot_answer("there is no such table".into())
            } else {
                let answer = self.read_again(&wanted);
                owner.follower.answer(answer)
            };
            answered.map_err(|error| error.to_string())?;
        }
        if self.chance.happens(8) {
            self.cut(owner);
        }
        Ok(())
    }

    pub(super) fn read_again(&mut self, wanted: &RereadWanted) -> RereadAnswer {
        let table = wanted.table.0 as usize;
        self.live(6);
        self.source.show(wanted.xid);
        while self.source.is_locked(table) {
            self.source.step(&mut self.chance);
        }
        let snapshot = self.source.snapshot();
        let kind = self.source.shapes[table].kind;
        let of_key = with_key(kind, &wanted.key);
        let row = self.source.read(table).find(|row| kind.same_key(row, &of_key)).map(tuple);
        self.reached.note(if row.is_some() { "it was there" } else { "it was not there any more" });
        RereadAnswer { row, snapshot, noted: Lsn(self.source.insert_lsn) }
    }

    fn commit(&mut self, owner: &mut Owner, commit: Commit) -> Result<(), String> {
        owner.follower.commit(commit).map_err(|error| error.to_string())?;
        if !self.bugs.hold(Bug::ConfirmedTooEarly) {
            self.confirmed = commit.end_lsn.max(self.confirmed);
        }
        if self.chance.happens(30) {
            self.settle(owner)?;
        }
        Ok(())
    }

    fn cut(&mut self, owner: &mut Owner) {
        let batch = owner.follower.cut();
        for notice in &batch.notices {
            match notice {
                Notice::Parked { table, mismatch: Mismatch::NotReadable(_), .. } => {
                    owner.parks.insert(table.0 as usize);
                }
                other => panic!("{other:?}"),
            }
        }
        owner.batches.push(batch);
    }

    /// At a boundary: what was cut becomes one transaction, and lands. False: somebody else was here, and the owner begins anew.
    fn settle(&mut self, owner: &mut Owner) -> Result<bool, String> {
        let Some(transaction) = self.transaction(owner) else { return Ok(true) };
        match self.land(&transaction)? {
            Landed::Done => {
                owner.progress = self.destination.progress;
                self.compare(owner.progress.applied, "after a transaction")?;
                if self.chance.happens(50) {
                    self.confirmed = owner.progress.applied.max(self.confirmed);
                }
                Ok(true)
            }
            Landed::Fenced => {
                *owner = self.own();
                Ok(false)
            }
        }
    }

    fn transaction(&mut self, owner: &mut Owner) -> Option<Transaction> {
        self.cut(owner);
        let batches = std::mem::take(&mut owner.batches);
        let applied = batches.iter().rev().find_map(|batch| batch.commit)?.end_lsn;
        assert!(batches.last().is_some_and(|batch| batch.at_boundary));
        let parks = owner.parks.clone();
        Some(Transaction { expected: owner.progress, applied, batches, parks, goes_on: None })
    }

    pub(super) fn land(&mut self, transaction: &Transaction) -> Result<Landed, String> {
        self.destination.land(transaction, &mut self.reached)
    }

    pub(super) fn is_in_flight(&mut self, transaction: Transaction) {
        self.in_flight.push_back(transaction);
    }

    /// The owner's connections are cut. A transaction may have been sent: it arrives now, later or never.
    fn lose_contact(&mut self, owner: &mut Owner) -> Result<(), String> {
        if owner.assembler.at_boundary()
            && let Some(transaction) = self.transaction(owner)
        {
            self.in_flight.push_back(transaction);
        }
        if self.chance.happens(30) { self.arrive_late() } else { Ok(()) }
    }

    fn arrive_late(&mut self) -> Result<(), String> {
        let Some(transaction) = self.in_flight.pop_front() else { return Ok(()) };
        if let Landed::Done = self.land(&transaction)? {
            self.reached.note("a transaction landed though its answer was lost");
            self.compare(self.destination.progress.applied, "after a late transaction")?;
        }
        Ok(())
    }

    fn spill(&mut self, owner: &mut Owner) {
        if let Some(spill) = owner.assembler.spill() {
            let file = owner.spooled.entry(spill.xid).or_default();
            spill.for_each(|record| file.extend_from_slice(&record));
        }
    }

    fn lose_a_row(&mut self) {
        let target = self.chance.below(self.destination.rows.len());
        let is_past_n = self.destination.is_past_n(target, self.destination.progress.applied);
        if let Some(rows) = self.destination.rows.get_mut(target).filter(|_| is_past_n) {
            rows.pop();
        }
    }

    /// A table that is past its N is as the source had it.
    fn compare(&self, position: Lsn, when: &str) -> Result<(), String> {
        if !self.bugs.hold(Bug::RowVanishes) {
            return Ok(());
        }
        let mut expected = vec![Vec::new(); self.destination.kinds.len()];
        for (table, rows) in self.source.state_at(position).into_iter().enumerate() {
            expected[self.source.shapes[table].target].extend(rows);
        }
        for (target, mut expected) in expected.into_iter().enumerate() {
            if !self.destination.is_past_n(target, position) || self.destination.is_parked(target) {
                continue;
            }
            let mut rows = self.destination.rows[target].clone();
            rows.sort();
            expected.sort();
            if rows != expected {
                let kind = self.destination.kinds[target];
                return Err(format!(
                    "{when}, at {position}: table {target} ({kind:?}) has {rows:?}, not {expected:?}"
                ));
            }
        }
        Ok(())
    }
}

/// With an identity among its values, no update may set all of them.
fn target(table: usize, kind: Kind, identity: bool) -> Target {
    let identity = identity && !kind.key().contains(&SHORT);
    let column = |name: &&str| TargetColumn {
        name: (*name).into(),
        type_name: r#"pg_catalog."text""#.into(),
        cast_of_its_own: false,
        identity_always: identity && *name == COLUMNS[SHORT],
    };
    let key =
        |column: &usize| KeyColumn { column: *column, equals: "operator(pg_catalog.=)".into() };
    Target {
        name: name(table),
        only: true,
        has_rules: false,
        columns: COLUMNS.iter().map(column).collect(),
        key: kind.key().iter().map(key).collect(),
    }
}
