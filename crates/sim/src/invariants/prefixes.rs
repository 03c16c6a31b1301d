//! Committed prefixes never diverge: what any replica calls committed at a seq is what every other one does.

use super::Scene;
use types::{Entry, PartitionId, Seq};

/// Per partition, everything that any replica ever called committed.
#[derive(Debug)]
pub(super) struct Chosen {
    entries: Vec<Vec<Entry>>,
    /// By node and partition: compared through here.
    compared: Vec<Vec<Seq>>,
}

impl Chosen {
    pub(super) fn new(nodes: usize, partitions: u32) -> Chosen {
        Chosen {
            entries: vec![Vec::new(); partitions as usize],
            compared: vec![vec![Seq(0); partitions as usize]; nodes],
        }
    }

    pub(super) fn get(&self, partition: PartitionId, seq: Seq) -> Option<&Entry> {
        self.entries[partition.0 as usize].get(seq.0.checked_sub(1)? as usize)
    }

    pub(super) fn end(&self, partition: PartitionId) -> Seq {
        Seq(self.entries[partition.0 as usize].len() as u64)
    }

    pub(super) fn count(&self) -> u64 {
        self.entries.iter().map(|entries| entries.len() as u64).sum()
    }

    /// The replica's log begins anew.
    pub(super) fn begins_anew(&mut self, scene: Scene<'_>) {
        self.compared[scene.node][scene.partition.0 as usize] = Seq(0);
    }

    pub(super) fn crashed(&mut self, node: usize) {
        self.compared[node].fill(Seq(0));
    }

    /// Compares what the replica calls committed and was not compared before. The first entry that no replica called
    /// committed before is given out, then the comparison is to go on; `None` at the end.
    pub(super) fn next(&mut self, scene: Scene<'_>, committed: Seq) -> Result<Option<Entry>, String> {
        let partition = scene.partition.0 as usize;
        let compared = &mut self.compared[scene.node][partition];
        let chosen = &mut self.entries[partition];
        let own = &scene.folds().written;
        // What lies before came with a snapshot.
        let start = own.start().seq;
        if *compared < start {
            if chosen.len() < start.0 as usize {
                return Err(format!("has a snapshot at {start}; only {} entries are committed", chosen.len()));
            }
            *compared = start;
        }
        while *compared < committed {
            let seq = compared.next();
            let entry = own.get(seq).ok_or_else(|| format!("calls {seq} committed and has not written it"))?;
            *compared = seq;
            match chosen.get(seq.0 as usize - 1) {
                Some(there) if there == entry => {}
                Some(there) => return Err(format!("calls {entry:?} committed; another replica committed {there:?}")),
                None => {
                    chosen.push(entry.clone());
                    return Ok(Some(entry.clone()));
                }
            }
        }
        Ok(None)
    }
}
