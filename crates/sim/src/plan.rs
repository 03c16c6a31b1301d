//! What one seed decides before its world begins: sizes, speeds, and which faults come how often.
//!
//! Every seed draws its own mixture, and leaves most kinds of fault out of most worlds: a world where everything fails
//! all the time makes too little progress to get into trouble.

use crate::queue::{MS, Micros};
use crate::random::Random;
use crate::transactions::hot_keys;
use bytes::Bytes;
use replcore::Settings;
use std::fmt;

/// A family of worlds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// No faults: everything must simply work.
    Calm,
    /// Loss, duplication, reordering, links cut in one direction or both.
    Network,
    /// Crashes of one node or of all, slow disks, restarts.
    Crashes,
    /// Nodes that stand still for a while and then go on with what they knew.
    Pauses,
    /// The viewleader group comes and goes.
    Viewleader,
    /// Replicas that turn out to be damaged.
    Damage,
    /// Any of the above together.
    Storm,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 7] = [
        Scenario::Calm,
        Scenario::Network,
        Scenario::Crashes,
        Scenario::Pauses,
        Scenario::Viewleader,
        Scenario::Damage,
        Scenario::Storm,
    ];

    /// The name to type.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Calm => "calm",
            Scenario::Network => "network",
            Scenario::Crashes => "crashes",
            Scenario::Pauses => "pauses",
            Scenario::Viewleader => "viewleader",
            Scenario::Damage => "damage",
            Scenario::Storm => "storm",
        }
    }

    /// The scenario with this name.
    pub fn named(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind of fault is chosen, relative to the others; 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FaultWeights {
    /// One node's process dies.
    pub(crate) crash: u64,
    /// All processes die at once.
    pub(crate) power_loss: u64,
    /// A node stands still.
    pub(crate) pause: u64,
    /// One direction between two nodes is cut.
    pub(crate) one_way: u64,
    /// A node is cut off from all others, perhaps in one direction only, perhaps from the viewleader too.
    pub(crate) isolate: u64,
    /// The nodes fall into two halves.
    pub(crate) split: u64,
    /// Everything to or from a node takes long.
    pub(crate) lag: u64,
    /// An operator changes members: a node joins, is drained, is wanted again, should hold more or less; more or fewer
    /// replicas; moves are paused or given up.
    pub(crate) members: u64,
    /// A node loses its disk for good.
    pub(crate) wipe: u64,
    /// A node's disk takes long.
    pub(crate) slow_disk: u64,
    /// The viewleader group has no leader.
    pub(crate) no_leader: u64,
    /// A replica is damaged.
    pub(crate) damage: u64,
}

/// How a link behaves while it is not cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LinkQuality {
    /// Least delay.
    pub(crate) delay_min: Micros,
    /// Most delay, but for what straggles.
    pub(crate) delay_max: Micros,
    /// Of a thousand messages, how many are lost.
    pub(crate) loss_permille: u64,
    /// Of a thousand, how many arrive twice.
    pub(crate) duplicate_permille: u64,
    /// Of a thousand, how many take up to `straggle_max`.
    pub(crate) straggle_permille: u64,
    /// Most delay of those.
    pub(crate) straggle_max: Micros,
}

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The family.
    pub(crate) scenario: Scenario,
    /// Places for storage nodes.
    pub(crate) nodes: usize,
    /// Those that are there from the beginning; the others join later, or never.
    pub(crate) founders: usize,
    /// Failure domains that the places are spread over.
    pub(crate) zones: usize,
    /// Partitions, a power of two.
    pub(crate) partitions: u32,
    /// Replicas of each.
    pub(crate) replication: u8,
    /// Clients, each with one request at a time.
    pub(crate) clients: usize,
    /// Of a thousand attempts that were not answered, after how many they ask the same node again.
    pub(crate) loyal_permille: u64,
    /// Scanners, watchers, and those whose keys expire.
    pub(crate) readers: [usize; 3],
    /// Keys that they fight over.
    pub(crate) keys: usize,
    /// Keys of transactions.
    pub(crate) hot: Vec<Bytes>,
    /// Of a thousand operations, how many are on those.
    pub(crate) hot_permille: u64,
    /// Longest pause of a client between two requests.
    pub(crate) think_max: Micros,
    /// How long clients and faults go on.
    pub(crate) busy: Micros,
    /// How long everything may then take to come to rest.
    pub(crate) heal_max: Micros,
    /// Between nodes.
    pub(crate) link: LinkQuality,
    /// How long a sync takes.
    pub(crate) sync: (Micros, Micros),
    /// Most time between a change being handed to the state and its being there.
    pub(crate) apply_max: Micros,
    /// Time between checkpoints of a node's state.
    pub(crate) checkpoint_every: Micros,
    /// Time between two ticks of a node.
    pub(crate) tick_every: Micros,
    /// Bounds of the replicas.
    pub(crate) settings: Settings,
    /// How long requests are remembered (P28).
    pub(crate) request_memory_ms: u64,
    /// How far a clock is off, at most.
    pub(crate) clock_skew_ms: u64,
    /// Time between a node's heartbeats.
    pub(crate) heartbeat_every: Micros,
    /// Most time until a view is on disk.
    pub(crate) view_write_max: Micros,
    /// Silence after which a node counts as dead.
    pub(crate) node_timeout_ms: u64,
    /// Time between faults, at most.
    pub(crate) fault_every: Micros,
    /// Which faults.
    pub(crate) faults: FaultWeights,
}

impl Plan {
    /// What a seed decides, within a scenario or within the one that it draws.
    pub(crate) fn draw(random: &mut Random, scenario: Option<Scenario>) -> Plan {
        let drawn = [
            Scenario::Calm,
            Scenario::Network,
            Scenario::Network,
            Scenario::Crashes,
            Scenario::Crashes,
            Scenario::Pauses,
            Scenario::Pauses,
            Scenario::Viewleader,
            Scenario::Damage,
            Scenario::Storm,
            Scenario::Storm,
            Scenario::Storm,
        ][random.index(12)];
        let scenario = scenario.unwrap_or(drawn);
        let founders = random.between(3, 5) as usize;
        let nodes = founders + random.between(0, 3) as usize;
        let replication = if founders == 5 && random.chance(300) { 5 } else { 3 };
        let partitions = 1 << random.between(0, 2);
        let fast = random.chance(500);
        // Primaries come and go so quickly that most leave something unfinished.
        let restless = random.chance(350);
        let tick_every = random.between(5, 15) * MS;
        let settings = Settings {
            message_bytes_max: [100, 400, 1 << 20][random.index(3)],
            window_bytes_max: [300, 2_000, 8 << 20][random.index(3)],
            uncommitted_bytes_max: [600, 4_000, 64 << 20, 64 << 20][random.index(4)],
            resend_ticks: random.between(1, 6) as u32,
            stuck_ticks: random.between(10, 50) as u32,
            reads_waiting_max: 1000,
            chunk_bytes_max: [1, 60, 400][random.index(3)],
            log_bytes_max: [50, 300, 3_000, 16 << 20][random.index(4)],
            history_bytes_max: [0, 200, 2_000, 256 << 10][random.index(4)],
        };
        Plan {
            scenario,
            nodes,
            founders,
            zones: [1, 1, 2, 3][random.index(4)],
            partitions,
            replication,
            clients: random.between(2, 8) as usize,
            loyal_permille: [500, 900, 990][random.index(3)],
            keys: random.between(1, 3) as usize * partitions as usize,
            hot: hot_keys(partitions, random.between(2, 4) as usize),
            hot_permille: [100, 300, 600][random.index(3)],
            think_max: [1, 10, 40][random.index(3)] * MS,
            busy: random.between(1_500, 3_500) * MS,
            heal_max: 120_000 * MS,
            link: link(random, scenario, fast),
            sync: [(50, 300), (200, 6 * MS), (200, 40 * MS)][random.index(3)],
            apply_max: [100, 2 * MS, 40 * MS][random.index(3)],
            checkpoint_every: random.between(50, 900) * MS,
            tick_every,
            settings,
            request_memory_ms: [300, 1_500, 60_000][random.index(3)],
            clock_skew_ms: [0, 20, 500][random.index(3)],
            heartbeat_every: if restless { 15 * MS } else { 50 * MS },
            view_write_max: [MS, 5 * MS, 150 * MS][random.index(3)],
            node_timeout_ms: if restless { random.between(50, 120) } else { random.between(150, 400) },
            fault_every: if restless { random.between(10, 80) } else { random.between(60, 500) } * MS,
            faults: faults(random, scenario),
            readers: [random.index(3), random.index(3), random.index(2)],
        }
    }
}

fn link(random: &mut Random, scenario: Scenario, fast: bool) -> LinkQuality {
    let delay_max = if fast { random.between(100, 600) } else { random.between(MS, 12 * MS) };
    let quiet = LinkQuality { delay_min: 40, delay_max, ..LinkQuality::default() };
    match scenario {
        Scenario::Calm => quiet,
        Scenario::Crashes | Scenario::Pauses | Scenario::Viewleader | Scenario::Damage if random.chance(600) => quiet,
        _ => LinkQuality {
            loss_permille: [0, 5, 50, 200][random.index(4)],
            duplicate_permille: [0, 20, 200][random.index(3)],
            straggle_permille: [0, 10, 100][random.index(3)],
            straggle_max: random.between(20, 1_500) * MS,
            ..quiet
        },
    }
}

fn faults(random: &mut Random, scenario: Scenario) -> FaultWeights {
    let none = FaultWeights { members: random.between(1, 5), ..FaultWeights::default() };
    let mut maybe = |weight: u64| if random.chance(600) { weight } else { 0 };
    match scenario {
        Scenario::Calm => none,
        Scenario::Network => FaultWeights { one_way: 3, isolate: 3, split: maybe(2), lag: maybe(4), ..none },
        Scenario::Crashes => FaultWeights {
            crash: 4,
            power_loss: maybe(1),
            slow_disk: maybe(3),
            isolate: maybe(2),
            wipe: maybe(1),
            ..none
        },
        Scenario::Pauses => FaultWeights { pause: 4, isolate: maybe(1), lag: maybe(2), crash: maybe(1), ..none },
        Scenario::Viewleader => {
            FaultWeights { no_leader: 4, crash: maybe(2), pause: maybe(2), isolate: maybe(2), ..none }
        }
        Scenario::Damage => FaultWeights { damage: 2, crash: maybe(2), pause: maybe(2), isolate: maybe(2), ..none },
        Scenario::Storm => FaultWeights {
            crash: maybe(4),
            power_loss: maybe(1),
            pause: maybe(4),
            one_way: maybe(3),
            isolate: maybe(3),
            split: maybe(2),
            lag: maybe(2),
            slow_disk: maybe(2),
            no_leader: maybe(2),
            damage: maybe(1),
            wipe: maybe(1),
            ..none
        },
    }
}
