//! How long planning takes for a cluster as large as it may be, and how many moves it finds.
//!
//! `cargo run --release -p viewcore --example plan -- [PARTITIONS [NODES [REPLICAS [ZONES]]]]`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;
use viewcore::plan::Candidate;
use viewcore::plan::assign::assign;
use viewcore::plan::placement::{Holder, Move, moves};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut argument = |default| arguments.next().unwrap_or(Ok(default));
    let (partitions, nodes) = (argument(65_536)?, argument(1000)?);
    let (replicas, zones) = (argument(3)?, argument(usize::MAX)?.max(1));
    let holder = |place: usize| Holder { zone: place % zones, weight: 100, receives: true, leaves: false };
    let holders: Vec<Holder> = (0..nodes).map(holder).collect();
    let candidates: Vec<Candidate> =
        holders.iter().map(|holder| Candidate { zone: holder.zone, weight: holder.weight }).collect();

    let begun = Instant::now();
    let map = assign(&candidates, u32::try_from(partitions)?, replicas.min(nodes));
    println!(
        "{partitions} partitions × {replicas} on {nodes} nodes: first map in {:.2} s",
        begun.elapsed().as_secs_f64()
    );

    measure("nothing to do", &holders, map.clone(), replicas);
    let mut joined = holders.clone();
    joined.push(holder(nodes));
    measure("one node joins", &joined, map.clone(), replicas);
    let mut left = holders.clone();
    left[nodes / 2].leaves = true;
    measure("one node leaves", &left, map.clone(), replicas);
    let mut cordoned = left.clone();
    cordoned[0].receives = false;
    cordoned.extend((nodes..nodes + 3).map(holder));
    measure("one leaves, three join, one is cordoned", &cordoned, map.clone(), replicas);
    let mut heavier = holders.clone();
    heavier.iter_mut().enumerate().for_each(|(place, holder)| holder.weight = 50 + (place as u32 * 37) % 100);
    measure("all weights change", &heavier, map.clone(), replicas);
    measure("one replica more", &holders, map.clone(), replicas + 1);
    let doubled: Vec<Holder> = (0..2 * nodes).map(holder).collect();
    measure("all nodes double", &doubled, map, replicas);
    Ok(())
}

/// Plans round after round, and prints what the first costs and what all find.
fn measure(what: &str, nodes: &[Holder], mut map: Vec<Vec<usize>>, replicas: usize) {
    let mut found = 0;
    let mut seconds = Vec::new();
    let mut firsts = 0;
    loop {
        let begun = Instant::now();
        let moves = moves(nodes, &map, replicas);
        seconds.push(begun.elapsed().as_secs_f64());
        if seconds.len() == 1 {
            firsts = moves.len();
        }
        found += moves.len();
        if moves.is_empty() {
            break;
        }
        for Move { partition, joins, leaves } in moves {
            let places = &mut map[partition as usize];
            places.retain(|place| Some(*place) != leaves);
            places.extend(joins);
        }
    }
    let longest = seconds.iter().copied().fold(0.0, f64::max);
    println!(
        "{what}: {:.2} s for {firsts} moves; to the end {} rounds, {found} moves, longest {longest:.2} s",
        seconds[0],
        seconds.len() - 1,
    );
}
