//! Agents, and who holds which leases.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use pgconvoy_shared::ids::{AgentId, Incarnation, UnitId};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::UnitKind;

/// An agent, as it registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    /// Its latest life.
    pub incarnation: Incarnation,
    /// Where it is; empty = nowhere in particular.
    pub site: String,
    /// Units it runs at once, besides those that take none ([`UnitKind::takes_slot`]).
    pub slots: u32,
    /// pgconvoy's version there.
    pub version: String,
    /// Majors of the pg_dump it found.
    pub pg_dump_majors: Vec<u32>,
    /// Where operators find it; may be empty.
    pub address: String,
    /// It finishes what it runs and gets nothing new.
    pub draining: bool,
    /// False = lost: it holds nothing, and gets nothing before it registers again.
    pub present: bool,
    /// When it last registered.
    pub registered: Timestamp,
    /// Its latest earlier lives: none of them registers again.
    pub former: Vec<Incarnation>,
}

/// All agents that ever registered and were not forgotten, with what they hold.
///
/// `held` and `free` are derived: kept up to date here, rebuilt on restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Agents {
    by_id: BTreeMap<AgentId, Agent>,
    held: BTreeMap<AgentId, Held>,
    free: BTreeSet<AgentId>,
}

/// What one agent holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    units: BTreeSet<UnitId>,
    /// So many of them take a slot.
    slots: u32,
}

impl Agents {
    pub(crate) fn get(&self, id: &AgentId) -> Option<&Agent> {
        self.by_id.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.by_id.values()
    }

    /// Its latest life is this one, and it is not lost.
    pub(crate) fn is_present(&self, id: &AgentId, incarnation: Incarnation) -> bool {
        self.get(id).is_some_and(|agent| agent.present && agent.incarnation == incarnation)
    }

    pub(crate) fn put(&mut self, agent: Agent) {
        let id = agent.id.clone();
        self.by_id.insert(id.clone(), agent);
        self.note_free(&id);
    }

    /// Changes an agent; false if there is none of this name.
    pub(crate) fn change(&mut self, id: &AgentId, change: impl FnOnce(&mut Agent)) -> bool {
        let Some(agent) = self.by_id.get_mut(id) else { return false };
        change(agent);
        self.note_free(id);
        true
    }

    pub(crate) fn remove(&mut self, id: &AgentId) {
        self.by_id.remove(id);
        self.free.remove(id);
    }

    pub(crate) fn hold(&mut self, id: &AgentId, unit: UnitId, kind: UnitKind) {
        let held = self.held.entry(id.clone()).or_default();
        if held.units.insert(unit) {
            held.slots += u32::from(kind.takes_slot());
        }
        self.note_free(id);
    }

    pub(crate) fn let_go(&mut self, id: &AgentId, unit: &UnitId, kind: UnitKind) {
        if let Some(held) = self.held.get_mut(id) {
            if held.units.remove(unit) {
                held.slots -= u32::from(kind.takes_slot());
            }
            if held.units.is_empty() {
                self.held.remove(id);
            }
        }
        self.note_free(id);
    }

    pub(crate) fn held(&self, id: &AgentId) -> impl Iterator<Item = &UnitId> {
        self.held.get(id).into_iter().flat_map(|held| &held.units)
    }

    pub(crate) fn held_count(&self, id: &AgentId) -> u32 {
        crate::state::count(self.held.get(id).map_or(0, |held| held.units.len()))
    }

    /// Slots that may be filled: none of an agent that is lost or draining.
    pub(crate) fn free_slots(&self, id: &AgentId) -> u32 {
        match self.get(id) {
            Some(agent) if agent.present && !agent.draining => {
                agent.slots.saturating_sub(self.held.get(id).map_or(0, |held| held.slots))
            }
            Some(_) | None => 0,
        }
    }

    /// Agents with free slots.
    pub(crate) fn free(&self) -> impl Iterator<Item = (&Agent, u32)> {
        self.free.iter().filter_map(|id| Some((self.get(id)?, self.free_slots(id))))
    }

    fn note_free(&mut self, id: &AgentId) {
        if self.free_slots(id) > 0 {
            self.free.insert(id.clone());
        } else {
            self.free.remove(id);
        }
    }
}
