//! Networks that carry nothing between some processes. Clients reach all of them.

use super::Stage;
use crate::error::Error;
use crate::proxy::Policy;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// One process and all others.
    Isolated,
    /// One process and all others, in one direction.
    OneWay,
    /// Two halves.
    Halves,
    /// Two halves, and one process that reaches both.
    Bridge,
    /// Nothing at all: a harness that takes this for a cut proves nothing.
    Nothing,
}

pub(super) async fn run(stage: &mut Stage<'_>, shape: Shape) -> Result<String, Error> {
    let (target, ways) = choose(stage, shape)?;
    let before = stage.cluster.wires().harmed(&ways)?;
    stage.begin(target);
    stage.cluster.wires().set(&ways, Policy::Cut)?;
    stage.hold().await;
    let blocked = stage.cluster.wires().harmed(&ways)? - before;
    let unit = stage.cluster.wires().unit();
    stage.cluster.heal()?;
    stage.end();
    match blocked {
        0 => Err(Error::NotLanded("the cut blocked nothing".to_owned())),
        blocked => Ok(format!("{} ways blocked {blocked} {unit}", ways.len())),
    }
}

/// Who is cut off, in words, and the ways that are blocked.
fn choose(stage: &mut Stage<'_>, shape: Shape) -> Result<(String, Vec<(usize, usize)>), Error> {
    let mut all = stage.cluster.running(None);
    stage.random.shuffle(&mut all);
    let between = |ones: &[usize], others: &[usize]| -> Vec<(usize, usize)> {
        let there = ones.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
        let back = ones.iter().flat_map(|one| others.iter().map(move |other| (*other, *one)));
        there.chain(back).collect()
    };
    let one = stage.choose(None)?;
    let others: Vec<usize> = all.iter().copied().filter(|place| *place != one).collect();
    let middle = others.len() / 2;
    let names = |places: &[usize]| stage.cluster.names(places);
    Ok(match shape {
        Shape::Isolated => (names(&[one]), between(&[one], &others)),
        Shape::OneWay => {
            let mute = stage.random.percent(50);
            let way = |other: &usize| if mute { (one, *other) } else { (*other, one) };
            let ways = others.iter().map(way).collect();
            (format!("{} {}", stage.name(one), if mute { "is not heard" } else { "does not hear" }), ways)
        }
        Shape::Halves => {
            let (left, right) = all.split_at(all.len() / 2);
            (format!("{} | {}", names(left), names(right)), between(left, right))
        }
        Shape::Bridge => {
            let (left, right) = others.split_at(middle);
            (format!("{} | {} by {}", names(left), names(right), names(&[one])), between(left, right))
        }
        Shape::Nothing => ("nobody".to_owned(), Vec::new()),
    })
}
