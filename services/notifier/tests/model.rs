//! The hand-over as a model: `stateright` tries every interleaving of two senders, their restarts, the payments, the mail
//! server and a number of faults, for one reminder. What holds here holds whatever the timing. Each [`Flaw`] leaves out one
//! rule of the protocol and must be found out: so each rule is needed, and the model can tell.
//!
//! | action | in the code |
//! |---|---|
//! | [`Action::Start`], [`Action::Crash`] | a process; started again it is another owner |
//! | [`Action::Heartbeat`], [`Action::Lapse`] | `store::heartbeat`; a lease ends, and the margin with it |
//! | [`Action::Claim`], [`Action::ClaimUnheard`] | `flow::claim`, `store::claim`; committed, but the answer got lost |
//! | [`Action::Refuse`], [`Action::Trouble`] | `Worker::prepare` fails: for good, for now |
//! | [`Action::Announce`], [`Action::AnnounceUnheard`] | T1: `flow::announce`, `store::mark_imminent` |
//! | [`Action::Permit`] | T2: `flow::permit` takes the lock of `store::lock_balances` and looks for the last time |
//! | [`Action::Expire`], [`Action::EndSession`] | the deadline of `Desk::grant` passes; Postgres ends T2's session |
//! | [`Action::Dot`] | `Prepared::write_dot`, if the deadline allows it |
//! | [`Action::Unlock`] | T2 ends |
//! | [`Action::Answer`] | the mail server decides, whether or not anybody still waits for it |
//! | [`Action::Read`], [`Action::TimeOut`] | `Committed::verdict`, `Attempt::of_failure` |
//! | [`Action::Settle`], [`Action::SettleUnheard`] | `flow::settle`: `store::end`, `store::put_back` |
//! | [`Action::TakeOver`], [`Action::Hour`] | `store::take_over`; a claim is older than any work lasts |
//! | [`Action::Pay`], [`Action::Record`] | ingest takes a payment; `store::upsert_balances` records it, once it gets the lock |
//! | [`Action::Wait`] | the notifier has known less than ingest for longer than `Freshness` allows |
//! | [`Action::Resolve`] | an operator sends again what the mail server can be shown never to have taken |
//!
//! A connection that is dropped before the dot leaves nothing behind (RFC 5321, 4.1.1.4), so it is not a part of the state.
//!
//! **Time** counts only as an order. A process may stand still between any two actions; what its deadlines have to do with
//! the times of others is this, and each has its flaw:
//! - When others may take over, permits of that lease have ended: T1 asks for the lease, and `sender::ANNOUNCED` is
//!   shorter than `store::MARGIN`.
//! - When Postgres ends the session of a process that sleeps, its permit has ended: `sender::PERMIT` is shorter than
//!   `idle_in_transaction_session_timeout`.
//! - When the bound of freshness has passed, permits that were given inside it have ended: `Freshness::permits_until`.
//!
//! **Not covered**: a process that falls asleep between its look at the clock and the write; and a session that Postgres
//! loses at any other time, as when it is killed ([`Flaw::SessionsDieEarly`] shows how that ends).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use std::collections::HashMap;

/// A process with a lease, by its number. One that is started again is a new one.
type Owner = usize;
/// A place in [`State::tickets`].
type Index = usize;

/// Everything there is, about one reminder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// `notifier.delivery`.
    delivery: Delivery,
    /// How many of its invoices are open, as ingest knows.
    owed: u8,
    /// The same in `notifier.balance`.
    known: u8,
    /// The notifier has known less than ingest for longer than the bound.
    stale: bool,
    /// Whose T2 holds the lock on the balances.
    lock: Option<Claim>,
    senders: Vec<Sender>,
    /// Claims in the memory of senders.
    tickets: Vec<Ticket>,
    /// Dots that the mail server has, each with its answer once there is one.
    dots: Vec<(Claim, Option<Answer>)>,
    /// Copies that the mail server has accepted.
    accepted: u8,
    /// How many faults may still happen.
    faults: u8,
    resolved: bool,
    wrong: Wrong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Delivery {
    row: Row,
    owner: Option<Owner>,
    attempts: u8,
    /// Claimed longer ago than any claim lasts.
    aged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Waiting,
    Claimed,
    Imminent,
    HandedOff,
    Suppressed,
    Failed,
    Unknown,
}

/// What tells one claim from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Claim {
    owner: Owner,
    attempts: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sender {
    alive: bool,
    /// It lasts, or has ended so short ago that nobody takes over.
    lease: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket {
    claim: Claim,
    /// How many invoices the message says are open.
    said: u8,
    /// The deadline for the dot has passed.
    expired: bool,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Claimed,
    Announced,
    Permitted,
    Dotted,
    Replying,
    Done(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verdict {
    Sent,
    Suppressed,
    Failed,
    Unknown,
    PutBack,
}

/// The mail server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Answer {
    Accepted,
    /// Taken, but the connection broke before it could say so.
    AcceptedUnheard,
    Later,
    Never,
    /// Not taken; the connection broke.
    None,
}

/// What must never have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Wrong {
    dot_after_payment: bool,
    dot_after_bound: bool,
    dot_after_take_over: bool,
    unknown_claimed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Crash(Owner),
    Heartbeat(Owner),
    Lapse(Owner),
    Claim(Owner),
    ClaimUnheard(Owner),
    /// For good.
    Refuse(Index),
    /// For now.
    Trouble(Index),
    Announce(Index),
    AnnounceUnheard(Index),
    Permit(Index),
    /// So much time passes that a permit ends.
    Expire(Index),
    /// Postgres ends a session that holds the lock: whoever had it sleeps.
    EndSession,
    Dot(Index),
    Unlock(Index),
    /// The mail server decides about a dot.
    Answer(usize, Answer),
    Read(Index),
    TimeOut(Index),
    Settle(Index),
    SettleUnheard(Index),
    TakeOver,
    Hour,
    Pay,
    Record,
    Wait,
    Resolve,
}

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// T1 is part of T2: nothing is on record while dots are written.
    AnnouncedWithinT2,
    /// The permit is committed first, the dot written then.
    DotOutsideOfLock,
    /// `mark_imminent` takes any claim for this one.
    AnyClaimAnnounces,
    /// `mark_imminent` does not ask whether the lease still holds.
    LapsedMayAnnounce,
    /// T1 does not begin the time anew after which a claim is taken from its owner.
    AgeOutlivesT1,
    /// A permit's time begins with T2, however long ago T1 was.
    DeadlineFromT2,
    /// A permit is good for ever.
    NoDeadline,
    /// `put_back` and `end` go by owner alone.
    AnyAttemptSettles,
    /// A lease ends for others while its owner may still be at work.
    NoMargin,
    /// What a dead sender may have handed over is sent again.
    CrashedAreSentAgain,
    /// What is unknown is sent again.
    UnknownAreSentAgain,
    /// Permits are given, and outlast the bound, whatever is known of payments.
    NoFreshness,
    /// A claim of a living sender is its for ever.
    ClaimsNeverAge,
    /// Not ours to choose: Postgres loses a session, and with it the lock, while the permit still holds.
    SessionsDieEarly,
}

/// The protocol, with so many faults and at most one flaw.
struct HandOver {
    faults: u8,
    invoices: u8,
    flaw: Option<Flaw>,
}

impl HandOver {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl State {
    fn lives(&self, owner: Owner) -> bool {
        self.senders[owner].alive
    }

    /// What the next statement with a guard for this claim finds.
    fn holds(&self, claim: Claim) -> bool {
        self.delivery.owner == Some(claim.owner) && self.delivery.attempts == claim.attempts
    }

    fn held_by(&self) -> Option<Claim> {
        let Delivery { row, owner, attempts, .. } = self.delivery;
        matches!(row, Row::Claimed | Row::Imminent).then(|| Claim { owner: owner.unwrap(), attempts })
    }

    fn unlock(&mut self, claim: Claim) {
        if self.lock == Some(claim) {
            self.lock = None;
        }
    }

    fn done(&mut self, index: Index, verdict: Verdict) {
        let ticket = &mut self.tickets[index];
        // What does not matter any more is forgotten: fewer states.
        (ticket.step, ticket.said, ticket.expired) = (Step::Done(verdict), 0, false);
        let claim = ticket.claim;
        self.unlock(claim);
    }

    fn expire(&mut self, whose: impl Fn(&Ticket) -> bool) {
        for ticket in self.tickets.iter_mut().filter(|t| whose(t)) {
            // Before T1 there is no deadline yet.
            ticket.expired |= matches!(ticket.step, Step::Announced | Step::Permitted);
        }
    }

    /// Nothing can change the end any more.
    fn at_rest(&self) -> bool {
        let ended = matches!(self.delivery.row, Row::HandedOff | Row::Suppressed | Row::Failed);
        ended && self.tickets.is_empty() && self.dots.is_empty()
    }

    /// Of those there are only so many. Everything else happens as often as it can.
    fn is_fault(&self, action: Action) -> bool {
        match action {
            Action::Lapse(owner) => self.lives(owner),
            // Nobody has it in hand: its time comes without anybody's doing.
            Action::Hour => self.tickets.iter().any(|t| self.held_by() == Some(t.claim)),
            Action::Crash(_)
            | Action::ClaimUnheard(_)
            | Action::Trouble(_)
            | Action::AnnounceUnheard(_)
            | Action::Expire(_)
            | Action::EndSession
            | Action::Answer(_, Answer::Later)
            | Action::SettleUnheard(_) => true,
            _ => false,
        }
    }
}

impl Model for HandOver {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            delivery: Delivery { row: Row::Waiting, owner: None, attempts: 0, aged: false },
            owed: self.invoices,
            known: self.invoices,
            stale: false,
            lock: None,
            senders: vec![Sender { alive: true, lease: true }; 2],
            tickets: Vec::new(),
            dots: Vec::new(),
            accepted: 0,
            faults: self.faults,
            resolved: false,
            wrong: Wrong::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.at_rest() {
            return;
        }
        let mut add = |possible: bool, action| {
            if possible && (state.faults > 0 || !state.is_fault(action)) {
                actions.push(action);
            }
        };
        let Delivery { row, owner, aged, .. } = state.delivery;
        let claimable = row == Row::Waiting || row == Row::Unknown && self.has(Flaw::UnknownAreSentAgain);
        add(state.senders.iter().filter(|s| s.alive).count() < 2, Action::Start);
        for (owner, sender) in state.senders.iter().enumerate() {
            let may_claim = sender.alive && sender.lease && claimable && !state.stale;
            add(sender.alive, Action::Crash(owner));
            add(sender.alive && !sender.lease, Action::Heartbeat(owner));
            add(sender.lease, Action::Lapse(owner));
            add(may_claim, Action::Claim(owner));
            add(may_claim, Action::ClaimUnheard(owner));
        }
        for (index, ticket) in state.tickets.iter().enumerate() {
            let answer = state.dots.iter().find(|(claim, _)| *claim == ticket.claim).map(|(_, answer)| answer);
            let possible: &[Action] = match ticket.step {
                Step::Claimed => &[
                    Action::Refuse(index),
                    Action::Trouble(index),
                    Action::Announce(index),
                    Action::AnnounceUnheard(index),
                ],
                Step::Announced if state.lock.is_some() => &[],
                Step::Announced => &[Action::Permit(index)],
                Step::Permitted => &[Action::Dot(index)],
                Step::Dotted => &[Action::Unlock(index)],
                Step::Replying if answer.is_some_and(Option::is_some) => &[Action::Read(index)],
                Step::Replying => &[Action::TimeOut(index)],
                Step::Done(_) => &[Action::Settle(index), Action::SettleUnheard(index)],
            };
            possible.iter().for_each(|action| add(true, *action));
            add(matches!(ticket.step, Step::Announced | Step::Permitted) && !ticket.expired, Action::Expire(index));
        }
        add(state.lock.is_some(), Action::EndSession);
        for (dot, _) in state.dots.iter().enumerate().filter(|(_, (_, answer))| answer.is_none()) {
            for answer in [Answer::Accepted, Answer::AcceptedUnheard, Answer::Later, Answer::Never, Answer::None] {
                add(true, Action::Answer(dot, answer));
            }
        }
        let lapsed = owner.is_some_and(|owner| !state.senders[owner].lease);
        let held = state.held_by().is_some();
        add(held && (lapsed || aged) && state.senders.iter().any(|s| s.alive && s.lease), Action::TakeOver);
        add(held && !aged && !self.has(Flaw::ClaimsNeverAge), Action::Hour);
        add(state.owed > 0, Action::Pay);
        add(state.known > state.owed && state.lock.is_none(), Action::Record);
        add(state.known > state.owed && !state.stale, Action::Wait);
        let never_taken = state.accepted == 0 && state.dots.is_empty();
        add(row == Row::Unknown && never_taken && !state.resolved, Action::Resolve);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        next.faults -= u8::from(last.is_fault(action));
        self.act(&mut next, action);
        // Nobody reads these answers any more.
        let State { dots, tickets, .. } = &mut next;
        let waits =
            |claim: Claim| tickets.iter().any(|t| t.claim == claim && matches!(t.step, Step::Dotted | Step::Replying));
        dots.retain(|(claim, answer)| answer.is_none() || waits(*claim));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(P2, |_, state: &State| state.accepted <= 1),
            Property::always(P3, |_, state: &State| !state.wrong.dot_after_payment),
            Property::always(P3_BOUND, |_, state: &State| !state.wrong.dot_after_bound),
            Property::always(GIVEN_UP, |_, state: &State| !state.wrong.dot_after_take_over),
            Property::always(UNKNOWN, |_, state: &State| !state.wrong.unknown_claimed),
            Property::always(TRUTH, |_, state: &State| match state.delivery.row {
                Row::HandedOff => state.accepted > 0,
                Row::Suppressed | Row::Failed => state.accepted == 0,
                _ => true,
            }),
            // The space has no cycles (see `nothing_goes_round_in_circles`): so whatever happens, it comes to an end.
            Property::always(P1, |model: &Self, state| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty()
                    || match state.delivery.row {
                        Row::Waiting | Row::Claimed | Row::Imminent => false,
                        Row::HandedOff | Row::Unknown => true,
                        Row::Suppressed | Row::Failed => state.accepted == 0,
                    }
            }),
            Property::sometimes("handed off", |_, state: &State| state.delivery.row == Row::HandedOff),
            Property::sometimes("suppressed", |_, state: &State| state.delivery.row == Row::Suppressed),
            Property::sometimes("failed", |_, state: &State| state.delivery.row == Row::Failed),
            Property::sometimes("unknown, though accepted", |_, state: &State| {
                state.delivery.row == Row::Unknown && state.accepted == 1
            }),
            Property::sometimes("rendered anew after a partial payment", |model: &Self, state: &State| {
                let anew = state.delivery.row == Row::HandedOff && state.delivery.attempts > 1;
                model.invoices == 1 || anew && state.known == 1
            }),
        ]
    }
}

impl HandOver {
    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Start => state.senders.push(Sender { alive: true, lease: true }),
            Action::Crash(owner) => {
                state.senders[owner].alive = false;
                state.tickets.retain(|t| t.claim.owner != owner);
                state.lock = state.lock.filter(|claim| claim.owner != owner);
            }
            Action::Heartbeat(owner) => state.senders[owner].lease = true,
            Action::Lapse(owner) => {
                state.senders[owner].lease = false;
                if !self.has(Flaw::NoMargin) {
                    state.expire(|t| t.claim.owner == owner);
                }
            }
            Action::Claim(owner) => {
                if let Some(claim) = Self::claim(state, owner) {
                    let said = state.known;
                    state.tickets.push(Ticket { claim, said, expired: false, step: Step::Claimed });
                }
            }
            Action::ClaimUnheard(owner) => {
                Self::claim(state, owner);
            }
            Action::Refuse(index) => state.done(index, Verdict::Failed),
            Action::Trouble(index) => state.done(index, Verdict::PutBack),
            Action::Announce(index) => self.announce(state, index),
            Action::AnnounceUnheard(index) => {
                self.announce(state, index);
                state.done(index, Verdict::PutBack);
            }
            Action::Permit(index) => self.permit(state, index),
            Action::Expire(index) => state.tickets[index].expired = true,
            Action::EndSession => {
                let lost = state.lock.take();
                if !self.has(Flaw::SessionsDieEarly) {
                    state.expire(|t| Some(t.claim) == lost);
                }
            }
            Action::Dot(index) => self.dot(state, index),
            Action::Unlock(index) => {
                let claim = state.tickets[index].claim;
                if self.has(Flaw::AnnouncedWithinT2) && state.lock == Some(claim) && state.holds(claim) {
                    state.delivery.row = Row::Imminent;
                }
                state.unlock(claim);
                state.tickets[index].step = Step::Replying;
            }
            Action::Answer(dot, answer) => {
                state.accepted += u8::from(matches!(answer, Answer::Accepted | Answer::AcceptedUnheard));
                state.dots[dot].1 = Some(answer);
            }
            Action::Read(index) => {
                let claim = state.tickets[index].claim;
                let dot = state.dots.iter().position(|(by, _)| *by == claim).unwrap();
                let verdict = match state.dots.remove(dot).1.unwrap() {
                    Answer::Accepted => Verdict::Sent,
                    Answer::Later => Verdict::PutBack,
                    Answer::Never => Verdict::Failed,
                    Answer::AcceptedUnheard | Answer::None => Verdict::Unknown,
                };
                state.done(index, verdict);
            }
            Action::TimeOut(index) => state.done(index, Verdict::Unknown),
            Action::Settle(index) => {
                self.settle(state, index);
                state.tickets.remove(index);
            }
            Action::SettleUnheard(index) => self.settle(state, index),
            Action::TakeOver => {
                let Delivery { row, owner, .. } = &mut state.delivery;
                if *row == Row::Claimed || self.has(Flaw::CrashedAreSentAgain) {
                    (*row, *owner) = (Row::Waiting, None);
                } else {
                    *row = Row::Unknown;
                }
                state.delivery.aged = false;
            }
            Action::Hour => {
                state.delivery.aged = true;
                let held = state.held_by();
                state.expire(|t| Some(t.claim) == held);
            }
            Action::Pay => state.owed -= 1,
            Action::Record => (state.known, state.stale) = (state.owed, false),
            Action::Wait => {
                state.stale = true;
                if !self.has(Flaw::NoFreshness) {
                    state.expire(|_| true);
                }
            }
            Action::Resolve => {
                (state.delivery.row, state.delivery.owner) = (Row::Waiting, None);
                state.resolved = true;
            }
        }
    }

    /// Nothing left to remind of is seen in the same transaction.
    fn claim(state: &mut State, owner: Owner) -> Option<Claim> {
        state.wrong.unknown_claimed |= state.delivery.row == Row::Unknown;
        let attempts = state.delivery.attempts + 1;
        let row = if state.known == 0 { Row::Suppressed } else { Row::Claimed };
        state.delivery = Delivery { row, owner: Some(owner), attempts, aged: false };
        (row == Row::Claimed).then_some(Claim { owner, attempts })
    }

    fn announce(&self, state: &mut State, index: Index) {
        let claim = state.tickets[index].claim;
        let ours = state.delivery.row == Row::Claimed
            && (state.holds(claim) || self.has(Flaw::AnyClaimAnnounces))
            && (state.senders[claim.owner].lease || self.has(Flaw::LapsedMayAnnounce));
        if !ours {
            return state.done(index, Verdict::PutBack);
        }
        if !self.has(Flaw::AnnouncedWithinT2) {
            state.delivery.row = Row::Imminent;
        }
        state.delivery.aged &= self.has(Flaw::AgeOutlivesT1);
        state.tickets[index].step = Step::Announced;
    }

    fn permit(&self, state: &mut State, index: Index) {
        let ticket = &mut state.tickets[index];
        if self.has(Flaw::DeadlineFromT2) {
            ticket.expired = false;
        }
        if state.known == 0 {
            state.done(index, Verdict::Suppressed);
        } else if ticket.said != state.known || state.stale && !self.has(Flaw::NoFreshness) {
            state.done(index, Verdict::PutBack);
        } else {
            state.tickets[index].step = Step::Permitted;
            if !self.has(Flaw::DotOutsideOfLock) {
                state.lock = Some(state.tickets[index].claim);
            }
        }
    }

    fn dot(&self, state: &mut State, index: Index) {
        let Ticket { claim, said, expired, .. } = state.tickets[index];
        if expired && !self.has(Flaw::NoDeadline) {
            return state.done(index, Verdict::PutBack);
        }
        state.wrong.dot_after_payment |= said > state.known;
        state.wrong.dot_after_bound |= state.stale;
        state.wrong.dot_after_take_over |= state.held_by() != Some(claim);
        state.dots.push((claim, None));
        state.tickets[index] = Ticket { step: Step::Dotted, said: 0, expired: false, claim };
    }

    fn settle(&self, state: &mut State, index: Index) {
        let Ticket { claim, step: Step::Done(verdict), .. } = state.tickets[index] else { return };
        let same_owner = state.delivery.owner == Some(claim.owner);
        let ours = state.holds(claim) || same_owner && self.has(Flaw::AnyAttemptSettles);
        let (held, unknown) = (state.held_by().is_some(), state.delivery.row == Row::Unknown);
        let row = match verdict {
            Verdict::Sent => Row::HandedOff,
            Verdict::Suppressed => Row::Suppressed,
            Verdict::Failed => Row::Failed,
            Verdict::Unknown => Row::Unknown,
            Verdict::PutBack => Row::Waiting,
        };
        if ours && (held || unknown && !matches!(verdict, Verdict::Unknown | Verdict::PutBack)) {
            state.delivery.row = row;
            state.delivery.aged = false;
            if verdict == Verdict::PutBack {
                state.delivery.owner = None;
            }
        }
    }
}

const P1: &str = "P1: what has come to rest has come to an end";
const P2: &str = "P2: at most one copy is accepted";
const P3: &str = "P3: no dot is written after the payment's commit";
const P3_BOUND: &str = "P3: no dot is written after the bound of freshness";
const GIVEN_UP: &str = "no dot is written for what others have taken over";
const UNKNOWN: &str = "unknown is never sent again by itself";
const TRUTH: &str = "an end tells the truth";

/// Every state that can be reached with so many faults and invoices.
fn check(faults: u8, invoices: u8) {
    let checked = HandOver { faults, invoices, flaw: None }.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} of them different", checked.state_count(), checked.unique_state_count());
    checked.assert_properties();
}

#[test]
fn the_promises_hold_with_two_faults() {
    check(2, 1);
}

#[test]
fn the_promises_hold_with_partial_payments() {
    check(1, 2);
}

#[test]
fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::AnnouncedWithinT2, P2),
        (Flaw::DotOutsideOfLock, P3),
        (Flaw::AnyClaimAnnounces, P2),
        (Flaw::LapsedMayAnnounce, GIVEN_UP),
        (Flaw::LapsedMayAnnounce, P2),
        (Flaw::AgeOutlivesT1, P2),
        (Flaw::DeadlineFromT2, P2),
        (Flaw::NoDeadline, P3),
        (Flaw::AnyAttemptSettles, P2),
        (Flaw::NoMargin, GIVEN_UP),
        (Flaw::NoMargin, P2),
        (Flaw::CrashedAreSentAgain, P2),
        (Flaw::CrashedAreSentAgain, TRUTH),
        (Flaw::UnknownAreSentAgain, P2),
        (Flaw::UnknownAreSentAgain, UNKNOWN),
        (Flaw::NoFreshness, P3_BOUND),
        (Flaw::ClaimsNeverAge, P1),
        (Flaw::SessionsDieEarly, P3),
    ] {
        let model = HandOver { faults: 1, invoices: 1, flaw: Some(flaw) };
        let checked = model.checker().finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
        let path = checked.discovery(promise).map(Path::into_actions);
        println!("{flaw:?}: not {promise}: {path:?}");
        assert!(path.is_some(), "{flaw:?} goes unnoticed: {promise}");
    }
}

/// What makes the check of [`P1`] in states without a way on enough.
#[test]
fn nothing_goes_round_in_circles() {
    let model = HandOver { faults: 1, invoices: 1, flaw: None };
    // Whether a state lies on the path that is being walked.
    let mut on_path = HashMap::new();
    let mut path: Vec<(State, Vec<State>)> = vec![];
    let mut next = model.init_states().pop();
    loop {
        if let Some(state) = next {
            match on_path.insert(state.clone(), true) {
                Some(true) => panic!("a circle through {state:?}"),
                Some(false) => drop(on_path.insert(state, false)),
                None => path.push((state.clone(), model.next_states(&state))),
            }
        }
        let Some((state, ways)) = path.last_mut() else { break };
        next = ways.pop();
        if next.is_none() {
            on_path.insert(state.clone(), false);
            path.pop();
        }
    }
    assert!(on_path.len() > 10_000, "all states were seen");
}
