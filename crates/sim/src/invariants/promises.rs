//! An answer leaves only after what it answers for is on disk (P2), and says what the disk says.

use super::{Scene, Verdict};
use replcore::{Body, Message};
use types::NodeId;

pub(super) fn check(scene: Scene<'_>, message: &Message, primary: Option<NodeId>) -> Verdict {
    let (term, folds) = (message.term, scene.folds());
    let durable = &folds.durable;
    let promised = || {
        if durable.promised < term {
            return Err(format!("answers {} of {term}; on disk is only {}", message.body.name(), durable.promised));
        }
        Ok(())
    };
    match &message.body {
        Body::Sealed { last, .. } => {
            promised()?;
            // The term's own primary may have replaced it since.
            if !durable.holds(*last) && durable.last().term < term {
                return Err(format!("sealed {last:?}; on disk the log ends with {:?}", durable.last()));
            }
        }
        Body::Prepared { seq } => {
            promised()?;
            // Said of what was accepted before a higher promise: the later term's primary may have replaced it since,
            // having seen it where its takeover met it.
            if durable.last().seq < *seq && durable.last().term <= term {
                return Err(format!("prepared {seq} of {term}; on disk the log ends with {:?}", durable.last()));
            }
            let its = primary.and_then(|n| scene.at(n)).filter(|its| its.written.promised == term);
            let (Some(its), Some(own)) = (its, durable.get(*seq)) else { return Ok(()) };
            // A primary that crashed may have lost what it sent last; its term is over then (P11).
            let differs = its.written.get(*seq).is_some_and(|there| there != own && there.id.term >= own.id.term);
            if durable.promised == term && differs {
                return Err(format!("prepared {own:?} of {term}; its primary has {:?}", its.written.get(*seq)));
            }
        }
        Body::Fetched { .. } => promised()?,
        Body::Confirmed { .. } if folds.written.promised > term => {
            return Err(format!("confirms {term} and has promised {}", folds.written.promised));
        }
        _ => {}
    }
    Ok(())
}
