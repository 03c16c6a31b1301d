//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "viewcore",
    /// Damage is forgotten at the next change, whoever is named then.
    P3Forgotten,
    /// A report of damage is believed however late it comes: the replica may have been filled again since.
    P3Late,
    /// A primary that restarted keeps its term.
    P11SameTerm,
    /// An activation of a term that is over is accepted.
    P16AnyTerm,
    /// A change of order loses the members that were activated last.
    P18PriorLost,
    /// New members count as activated at once.
    P18NoPrior,
    /// Members that are not activated can be replaced by any others.
    P19Superseded,
    /// A start count that was used already is accepted again, with another nonce.
    P20Copies,
    /// A lower start count than the latest is accepted.
    P20Lower,
    /// Two new directories get one id.
    P20SharedId,
    /// A node that has seen more than the viewleaders stops nothing.
    P20Restored,
    /// A new leader declares dead whomever it has not heard yet.
    P21AtOnce,
    /// Any number of nodes is declared dead at once, without evidence.
    P21Third,
    /// A learner becomes a member before it is full.
    P21Unfilled,
    /// A plan made for an older view is carried out.
    StalePlan,
    /// All nodes get the same share.
    WeightsIgnored,
    /// A node may leave whatever the others can hold.
    RefusesNothing,
    /// A partition with a majority is recovered by giving up what the others have.
    RecoversMajorities,
}
